//! What the gateway's process gives up for good before it serves anyone: core dumps, new privileges, other programs,
//! and files that are not its own (S-17, S-39).
//!
//! Whoever finds a way to run code of theirs in here finds no shell, no file to change, and none to read but those that
//! the configuration names and the system's own. Each part is taken where the kernel has it; what it has not is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::config::{Audit, Loaded, Material};

/// The newest of Landlock that was tried; an older kernel gives what it has of it.
const LANDLOCK: ABI = ABI::V5;

/// What is read besides the files of the configuration: how names are resolved (resolv.conf, nsswitch.conf and the
/// libraries that it names), time zones, this process, how many processors there are, and random numbers.
const SYSTEM: [&str; 14] = [
    // Random numbers of a program that is linked statically, which does not find getrandom(2) by name: it waits on the one
    // until the kernel has some, and then reads the other.
    "/dev/random",
    "/dev/urandom",
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/proc/self",
    "/proc/sys",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
];

/// Calls that no gateway makes: other programs, other processes' memory, mounts, the kernel itself.
const FORBIDDEN: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
];

/// The ways to another process that only some processors have.
#[cfg(target_arch = "x86_64")]
const FORKS: &[i64] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[i64] = &[];

/// What makes a number one of x32, where the kernel has that: the same calls by the same architecture, and so past a filter of
/// the usual numbers. Those few that have numbers of their own there are in [`X32`].
#[cfg(target_arch = "x86_64")]
const X32_BIT: i64 = 0x4000_0000;

/// execve, ptrace, process_vm_readv, process_vm_writev, kexec_load and execveat (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
const X32: &[i64] = &[520, 521, 539, 540, 528, 545];

/// The same calls by other numbers.
#[cfg(target_arch = "x86_64")]
fn also() -> impl Iterator<Item = i64> {
    FORBIDDEN.iter().chain(FORKS).chain(X32).chain(&[libc::SYS_clone, libc::SYS_clone3]).map(|call| call | X32_BIT)
}
#[cfg(not(target_arch = "x86_64"))]
fn also() -> impl Iterator<Item = i64> {
    std::iter::empty()
}

/// What this kernel did not give.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing(Vec<String>);

impl Missing {
    /// Is everything there?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

/// No picture of this memory, which holds passwords, is left by a crash or taken by another process of the same user.
///
/// # Errors
/// What the kernel said.
pub fn keep_memory_private() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Where the files are that a configuration names, itself included.
pub fn directories(file: &Path, loaded: &Loaded) -> BTreeSet<PathBuf> {
    let files = loaded.materials.iter().flat_map(Material::files).chain(loaded.references.iter().map(PathBuf::as_path));
    folders(files.chain([file]))
}

/// The folders that links on the way to a file may be turned to: `current -> releases/1` is `releases/2` one day. Not those of
/// links that lead out of the folder they are in: nobody can say how much is there.
fn folders_of_links(file: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    file.ancestors().skip(1).filter_map(|above| {
        let beside = Some(above.parent()?).filter(|beside| !beside.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = beside.canonicalize().ok()?;
        let target = beside.join(above.read_link().ok()?);
        let folder = target.parent()?.canonicalize().ok()?;
        (folder.starts_with(&beside) && beside != Path::new("/")).then_some(folder)
    })
}

fn folders<'a>(files: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    for file in files {
        directories.extend(folders_of_links(file));
        // A link among them leads to a file that may be elsewhere.
        for path in [file.canonicalize().ok(), Some(file.to_owned())].into_iter().flatten() {
            directories.insert(match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            });
        }
    }
    directories
}

/// Where the audit files are, which are written, moved away and made anew.
pub fn written_directories(audit: &Audit) -> BTreeSet<PathBuf> {
    folders(audit.path.iter().chain(&audit.xferlog).map(PathBuf::as_path))
}

/// From here on this thread, and those that it starts, read only below these directories and the system's, write only
/// below those of the audit files, and start no program. Must come before the runtime's threads.
pub fn enter(directories: &BTreeSet<PathBuf>, written: &BTreeSet<PathBuf>) -> Missing {
    let mut missing = Missing::default();
    if let Err(error) = set_no_new_privs(true) {
        missing.0.push(format!("no_new_privs: {error}"));
    }
    match restrict_files(directories, written) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => missing.0.push("Landlock: this kernel has an older one".to_owned()),
        Ok(RulesetStatus::NotEnforced) => missing.0.push("Landlock: this kernel has none".to_owned()),
        Err(error) => missing.0.push(format!("Landlock: {error}")),
    }
    if let Err(error) = restrict_calls() {
        missing.0.push(format!("seccomp: {error}"));
    }
    missing
}

fn restrict_files(
    directories: &BTreeSet<PathBuf>,
    written: &BTreeSet<PathBuf>,
) -> Result<RulesetStatus, landlock::RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(LANDLOCK))?.create()?;
    for directory in SYSTEM.into_iter().map(Path::new).chain(directories.iter().map(PathBuf::as_path)) {
        // What is not there needs no rule. A file cannot be listed, and to ask for that counts as something missing.
        if let Ok(opened) = PathFd::new(directory) {
            let access = if directory.is_dir() { reading } else { AccessFs::ReadFile.into() };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    let writing = reading | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile;
    for directory in written {
        if let Ok(directory) = PathFd::new(directory) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, writing))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

fn restrict_calls() -> Result<(), seccompiler::Error> {
    let always = |call: &i64| (*call, Vec::new());
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN.iter().chain(FORKS).map(always).collect();
    refused.extend(also().map(|call| (call, Vec::new())));
    // A thread of this process is a clone; anything else would be another process.
    let thread = libc::CLONE_THREAD as u64;
    let is_no_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0).map_err(backend)?;
    refused.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_no_thread]).map_err(backend)?]);
    install(refused, libc::EPERM)?;
    // The flags of clone3 are in memory, where a filter cannot look: libraries that are told it does not exist use
    // clone.
    install(BTreeMap::from([always(&libc::SYS_clone3)]), libc::ENOSYS)
}

fn install(calls: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<(), seccompiler::Error> {
    let refused = SeccompAction::Errno(error.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().map_err(backend)?;
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refused, architecture).map_err(backend)?;
    let program: BpfProgram = filter.try_into().map_err(backend)?;
    seccompiler::apply_filter(&program)
}

fn backend(error: seccompiler::BackendError) -> seccompiler::Error {
    seccompiler::Error::Backend(error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_link_on_the_way_may_be_turned_to_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        for name in ["releases/1", "releases/2", "elsewhere", "named"] {
            fs::create_dir_all(path(name)).unwrap();
            fs::write(path(name).join("tls.crt"), "").unwrap();
        }
        symlink("releases/1", path("current")).unwrap();
        symlink(path("elsewhere"), path("named/out")).unwrap();
        let found = |file: &str| folders([path(file).as_path()].into_iter());
        assert_eq!(found("current/tls.crt"), BTreeSet::from([path("current"), path("releases"), path("releases/1")]),);
        // The link leads out of its folder: where it leads to now, and no more.
        assert_eq!(found("named/out/tls.crt"), BTreeSet::from([path("named/out"), path("elsewhere")]));
        assert_eq!(found("named/tls.crt"), BTreeSet::from([path("named")]));
    }
}
