//! Takes over what has changed in the files of a running gateway: certificates, users, backends and host keys.
//!
//! Three things lead to a look: a change in a directory of these files, SIGHUP, and the clock. A look reads everything
//! anew and takes over what is another than before, all of it or nothing: where there is a mistake the last good
//! configuration stays in use. Sessions that are under way go on as they began; only their backends, with their addresses and
//! host keys, are those of the new configuration when they have to connect again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::error::Problem;
use crate::config::{self, Config, Fingerprint, Loaded, Material};
use crate::session::current::Current;
use crate::session::services::Services;
use crate::ssh::Target;
use crate::telemetry::metrics::{self, ReloadObject, ReloadResult};

use super::watch::Watch;
use super::{StartError, Targets, check_materials, fresh_targets, realm, server_tls, service_manager};

/// How often the files are looked at where nothing tells of a change.
const POLL: Duration = Duration::from_secs(60);

/// After a change: how long nothing further must change, so that a certificate and its key are seen together.
const QUIET: Duration = Duration::from_millis(500);

/// After a change: how long others may put off the look.
const LATEST: Duration = Duration::from_secs(5);

/// Keys of the file by what a change of them leads to; all others are read at the start only.
const RELOADED: [(&str, ReloadObject); 4] = [
    ("tls", ReloadObject::Tls),
    ("backends", ReloadObject::Backends),
    ("users", ReloadObject::Users),
    ("policy", ReloadObject::Users),
];

/// Follows the files of a running gateway.
pub(super) struct Reloader {
    file: PathBuf,
    services: Arc<Services>,
    seen: Seen,
    /// What was wrong at the last look, so that it is told once.
    failure: Vec<Problem>,
    reports: Reports,
}

/// How reloads went; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports(Arc<Mutex<Option<Report>>>);

/// How the last reload went: one that was asked for, took something over, or failed anew.
#[derive(Debug, Clone)]
pub(super) struct Report {
    /// Which one since the start.
    pub(super) looks: u64,
    pub(super) at: SystemTime,
    /// What was taken over.
    pub(super) changed: Vec<&'static str>,
    /// What kept it from being taken over; empty where nothing did.
    pub(super) problems: Vec<String>,
}

impl Reports {
    pub(super) fn last(&self) -> Option<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, changed: &[ReloadObject], problems: &[Problem]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = last.as_ref().map_or(0, |report| report.looks) + 1;
        let changed = changed.iter().map(|object| object.as_str()).collect();
        let problems = problems.iter().map(ToString::to_string).collect();
        *last = Some(Report { looks, at: SystemTime::now(), changed, problems });
    }
}

/// What was read at one look.
struct Read {
    result: Result<Config, Vec<Problem>>,
    seen: Seen,
}

/// What the files held.
#[derive(Default)]
struct Seen {
    objects: BTreeMap<ReloadObject, Fingerprint>,
    /// What no reload takes over, by key.
    fixed: BTreeMap<String, Fingerprint>,
    files: BTreeSet<PathBuf>,
}

impl Reloader {
    /// Follows `file`, from which `services` were made.
    pub(super) async fn new(file: PathBuf, services: Arc<Services>, reports: Reports) -> Self {
        let Read { seen, .. } = read(file.clone()).await;
        ReloadObject::ALL.into_iter().for_each(metrics::loaded);
        Self { file, services, seen, failure: Vec::new(), reports }
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                warn!(exception.message = %error, "SIGHUP cannot be followed: no reload");
                return;
            }
        };
        let mut clock = interval_at(Instant::now() + POLL, POLL);
        let mut watch = self.watch();
        // What has changed since the files were read has made no event.
        self.look(false).await;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => true,
                _ = clock.tick() => false,
                () = settled(watch.as_mut()) => false,
            };
            // Anew before the look, so that what changes meanwhile is seen at the next one: a directory may be another now.
            watch = self.watch();
            let files = self.seen.files.clone();
            if asked {
                service_manager::reloading();
            }
            self.look(asked).await;
            if asked {
                service_manager::reloaded();
            }
            if self.seen.files != files {
                watch = self.watch();
            }
        }
    }

    fn watch(&self) -> Option<Watch> {
        Watch::over(&self.seen.files)
            .inspect_err(|error| warn!(exception.message = %error, "no inotify: files are looked at once a minute"))
            .ok()
    }

    /// Reads the files and takes over what has changed. `asked`: by an operator, who waits for an answer.
    async fn look(&mut self, asked: bool) {
        let Read { result, seen } = read(self.file.clone()).await;
        let changed: Vec<ReloadObject> = ReloadObject::ALL
            .into_iter()
            .filter(|object| seen.objects.get(object) != self.seen.objects.get(object))
            .collect();
        let taken = match result {
            Ok(config) => self.take_over(&config, &changed).map_err(|problem| vec![problem]),
            Err(problems) => Err(problems),
        };
        let problems = match taken {
            Ok(()) => {
                let is_again_good = !std::mem::take(&mut self.failure).is_empty();
                self.tell_success(&changed, &seen, asked || is_again_good);
                self.seen = seen;
                return;
            }
            Err(problems) => problems,
        };
        // The old ones are kept beside: a file that was repaired may be where it was.
        self.seen.files.extend(seen.files);
        // Each look counts, so that it is seen as long as it lasts.
        let object = problems.first().map_or(ReloadObject::Configuration, |problem| object_of(&problem.at));
        metrics::reload(object, ReloadResult::Failed);
        if asked || problems != self.failure {
            self.reports.tell(&[], &problems);
            let about: Vec<String> = problems.iter().map(ToString::to_string).collect();
            error!(problems = about.join("; "), "reload failed, the last good configuration stays in use");
        }
        self.failure = problems;
    }

    fn take_over(&self, config: &Config, changed: &[ReloadObject]) -> Result<(), Problem> {
        let as_problem = |error: StartError| match error {
            StartError::Material(problem) => problem,
            other => Problem::new("", other.to_string()),
        };
        let has_changed = |object| changed.contains(&object);
        // Everything is made before anything is replaced.
        let is_new = has_changed(ReloadObject::Tls) || has_changed(ReloadObject::ClientAuthorities);
        let tls = is_new.then(|| server_tls(config)).transpose().map_err(as_problem)?;
        let current = self.services.realm.get();
        let of_backends = has_changed(ReloadObject::Backends) || has_changed(ReloadObject::KnownHosts);
        let fresh = if of_backends { fresh_targets(config).map_err(as_problem)? } else { HashMap::new() };
        // Sessions that are under way follow their backend, whose host keys may be others now: by its name it is the same.
        let target = |(name, fresh): (&String, &Arc<Target>)| {
            let kept = current.targets.get(name).cloned();
            (name.clone(), kept.unwrap_or_else(|| Arc::new(Current::new(Arc::clone(fresh)))))
        };
        let targets: Targets = if of_backends { fresh.iter().map(target).collect() } else { current.targets.clone() };
        let is_new = has_changed(ReloadObject::Backends) || has_changed(ReloadObject::Users);
        let realm = is_new.then(|| realm(config, Some(&targets))).transpose().map_err(as_problem)?;
        for (name, fresh) in fresh {
            targets.get(&name).inspect(|target| target.replace(fresh));
        }
        if let Some(realm) = realm {
            self.services.realm.replace(realm);
            let backends: Vec<&str> = targets.keys().map(String::as_str).collect();
            metrics::initialise(&[], &backends);
            current
                .targets
                .keys()
                .filter(|name| !targets.contains_key(*name))
                .for_each(|name| metrics::backend_gone(name));
        }
        if let Some(tls) = tls {
            self.services.tls.replace(tls);
        }
        Ok(())
    }

    fn tell_success(&self, changed: &[ReloadObject], seen: &Seen, always: bool) {
        for object in changed {
            metrics::reload(*object, ReloadResult::Success);
            metrics::loaded(*object);
        }
        if always && changed.is_empty() {
            metrics::reload(ReloadObject::Configuration, ReloadResult::Success);
            metrics::loaded(ReloadObject::Configuration);
        }
        if always || !changed.is_empty() {
            self.reports.tell(changed, &[]);
            let names: Vec<&str> = changed.iter().map(|object| object.as_str()).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            info!(event.name = "ftps2sftp.tls.reload", changed = names, "reloaded");
        }
        let fixed: Vec<&str> = seen
            .fixed
            .iter()
            .filter(|(key, fingerprint)| self.seen.fixed.get(*key) != Some(fingerprint))
            .map(|(key, _)| key.as_str())
            .chain(self.seen.fixed.keys().filter(|key| !seen.fixed.contains_key(*key)).map(String::as_str))
            .collect();
        if !fixed.is_empty() {
            warn!(keys = fixed.join(", "), "changed in the file, and takes effect at the next start");
        }
    }
}

/// Waits for a change, and then until no further one comes.
async fn settled(watch: Option<&mut Watch>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if watch.changed().await.is_err() {
        return std::future::pending().await;
    }
    let latest = Instant::now() + LATEST;
    loop {
        tokio::select! {
            () = sleep_until(latest) => return,
            () = sleep(QUIET) => return,
            _ = watch.changed() => {}
        }
    }
}

async fn read(file: PathBuf) -> Read {
    let task = spawn_blocking(move || read_blocking(&file));
    // Only a panic in there ends the task without a value; it is a mistake like any other to the caller.
    task.await.unwrap_or_else(|error| Read {
        result: Err(vec![Problem::new("", format!("reading the configuration failed: {error}"))]),
        seen: Seen::default(),
    })
}

fn read_blocking(file: &Path) -> Read {
    let loaded = config::load(file);
    // Taken before the files are used: what changes in between is found at the next look.
    let seen = Seen::of(file, &loaded);
    Read { result: check_materials(loaded), seen }
}

impl Seen {
    fn of(file: &Path, loaded: &Loaded) -> Self {
        let mut seen = Self { files: BTreeSet::from([file.to_owned()]), ..Self::default() };
        let mut parts: BTreeMap<ReloadObject, Vec<Fingerprint>> = BTreeMap::new();
        for (key, fingerprint) in &loaded.sections {
            match RELOADED.iter().find(|(name, _)| name == key) {
                Some((_, object)) => parts.entry(*object).or_default().push(*fingerprint),
                None => drop(seen.fixed.insert(key.clone(), *fingerprint)),
            }
        }
        for material in &loaded.materials {
            let object = match material {
                Material::Certificate { .. } => ReloadObject::Tls,
                Material::ClientAuthorities { .. } => ReloadObject::ClientAuthorities,
                Material::KnownHosts { .. } => ReloadObject::KnownHosts,
                Material::LoginKey { at, .. } => object_of(at),
            };
            for path in material.files() {
                let content = std::fs::read(path).map(zeroize::Zeroizing::new);
                parts.entry(object).or_default().push(Fingerprint::of(content.as_deref().map_or(&[], Vec::as_slice)));
                seen.files.insert(path.to_owned());
            }
        }
        seen.files.extend(loaded.references.iter().cloned());
        seen.objects = parts.into_iter().map(|(object, parts)| (object, Fingerprint::of_all(parts))).collect();
        seen
    }
}

/// What a mistake at this key path keeps from being taken over.
fn object_of(at: &str) -> ReloadObject {
    let key = at.split(['.', '[']).next().unwrap_or_default();
    if key == "backends" && at.contains("known_hosts") {
        return ReloadObject::KnownHosts;
    }
    if key == "tls" && at.contains(".client_") {
        return ReloadObject::ClientAuthorities;
    }
    RELOADED.iter().find(|(name, _)| *name == key).map_or(ReloadObject::Configuration, |(_, object)| *object)
}
