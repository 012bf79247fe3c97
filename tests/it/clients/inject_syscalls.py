"""Makes a thread of a running process do system calls, as code would that somebody has brought into it (x86-64).

Usage: inject_syscalls.py PID. For each call one line: its name, what became of it in the process, and what became of the
same call in here, each 0 or the name of an error.
"""

import ctypes
import errno
import os
import sys

PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH = 9, 12, 13, 16, 17
WALL = 0x40000000
NOBODY = 0x3FFFFFFF
NOTHING = -1 & 0xFFFFFFFFFFFFFFFF

# Numbers as of syscall_64.tbl. Arguments with which none of them does anything where it is not refused.
CALLS = [
    ("ptrace", 101, (16, NOBODY, 0, 0)),
    ("process_vm_readv", 310, (NOBODY, 0, 0, 0, 0, 1)),
    ("process_vm_writev", 311, (NOBODY, 0, 0, 0, 0, 1)),
    ("kcmp", 312, (NOBODY, NOBODY, 0, 0, 0)),
    ("mount", 165, (1, 1, 1, 0, 0)),
    ("umount2", 166, (1, 0)),
    ("pivot_root", 155, (1, 1)),
    ("chroot", 161, (1,)),
    ("open_tree", 428, (NOTHING, 1, 0)),
    ("setns", 308, (NOTHING, 0)),
    ("unshare", 272, (0,)),
    ("execve", 59, (1, 0, 0)),
    ("execveat", 322, (NOTHING, 1, 0, 0, 0)),
    # CLONE_SIGHAND without CLONE_VM.
    ("clone", 56, (0x800, 0, 0, 0, 0)),
    ("keyctl", 250, (1 << 20, 0, 0)),
    ("add_key", 248, (1, 1, 0, 0, 0)),
    ("bpf", 321, (1 << 20, 0, 0)),
    ("perf_event_open", 298, (1, 0, 0, 0, 0)),
    ("userfaultfd", 323, (1 << 20,)),
]

REGISTERS = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
).split()
ARGUMENTS = "rdi rsi rdx r10 r8 r9".split()


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
libc.syscall.restype = ctypes.c_long


def ptrace(request, thread, data=None):
    if libc.ptrace(request, thread, None, data) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def wait(thread):
    _, status = os.waitpid(thread, WALL)
    assert os.WIFSTOPPED(status), status


def syscall_instruction(process):
    """Where the process has one: in what the kernel maps into each."""
    for mapping in open(f"/proc/{process}/maps"):
        if mapping.rstrip().endswith("[vdso]"):
            start, end = (int(number, 16) for number in mapping.split()[0].split("-"))
            with open(f"/proc/{process}/mem", "rb", 0) as memory:
                memory.seek(start)
                return start + memory.read(end - start).index(b"\x0f\x05")
    raise LookupError("no vdso")


def name(error):
    return errno.errorcode[error] if error else "0"


def main(process):
    thread = int(sorted(os.listdir(f"/proc/{process}/task"), key=int)[-1])
    instruction = syscall_instruction(process)
    ptrace(PTRACE_ATTACH, thread)
    wait(thread)
    before = Registers()
    ptrace(PTRACE_GETREGS, thread, ctypes.addressof(before))
    try:
        for call, number, arguments in CALLS:
            registers = Registers.from_buffer_copy(before)
            # No call is to be begun anew in its place.
            registers.rip, registers.rax, registers.orig_rax = instruction, number, NOTHING
            for register, argument in zip(ARGUMENTS, arguments):
                setattr(registers, register, argument)
            ptrace(PTRACE_SETREGS, thread, ctypes.addressof(registers))
            ptrace(PTRACE_SINGLESTEP, thread)
            wait(thread)
            ptrace(PTRACE_GETREGS, thread, ctypes.addressof(registers))
            result = ctypes.c_longlong(registers.rax).value
            there = -result if -4096 < result < 0 else 0
            own = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
            here = ctypes.get_errno() if own == -1 else 0
            print(call, name(there), name(here))
    finally:
        ptrace(PTRACE_SETREGS, thread, ctypes.addressof(before))
        ptrace(PTRACE_DETACH, thread)


main(int(sys.argv[1]))
