"""The seccomp filter of the sandbox: a classic BPF program, assembled here, that refuses system calls.

Refused with EPERM: starting another process, other namespaces, tracing and reading other processes, mounting, kernel
keys, io_uring, BPF, userfaultfd, sockets (socketpair stays, with buffers of the default size), memory that no rlimit of
the process counts, what reaches others through a file or device that they use too (locks, time stamps, watches), and
another
priority: idle threads could stretch the wall time. ``clone3`` and every call newer than this table give ENOSYS, which
the C library answers with an older call. A call of another architecture (32-bit, say) kills the program.
"""

import struct

AUDIT_NUMBERS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h

# Names are those of Linux; numbers are x86_64's and aarch64's, "-" where there is no such call, one where both are alike.
_DENIED = {
    "other processes": """
        ptrace 101 117, kcmp 312 272, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440,
        process_mrelease 448, pidfd_open 434, pidfd_getfd 438, pidfd_send_signal 424, migrate_pages 256 238,
        move_pages 279 239
        """,
    "namespaces, mounts, roots": """
        unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, open_tree 428,
        move_mount 429, fsopen 430, fsconfig 431, fsmount 432, fspick 433, mount_setattr 442,
        name_to_handle_at 303 264, open_by_handle_at 304 265, quotactl 179 60, quotactl_fd 443, fanotify_init 300 262,
        fanotify_mark 301 263
        """,
    "network": "socket 41 198, connect 42 203, accept 43 202, accept4 288 242, bind 49 200, listen 50 201",
    "wide doors into the kernel": """
        bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425, io_uring_enter 426,
        io_uring_register 427, io_setup 206 0, io_submit 209 2, vmsplice 278 75, add_key 248 217, request_key 249 218,
        keyctl 250 219, personality 135 92, modify_ldt 154 -, iopl 172 -, ioperm 173 -, mbind 237 235,
        set_mempolicy 238 237, set_mempolicy_home_node 450
        """,
    "memory that the limits do not count": """
        memfd_create 319 279, memfd_secret 447, shmget 29 194, shmat 30 196, semget 64 190, msgget 68 186,
        mq_open 240 180, setsockopt 54 208, sendmsg 46 211, sendmmsg 307 269
        """,
    "files and devices of others": """
        flock 73 32, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, inotify_init 253 -,
        inotify_init1 294 26, inotify_add_watch 254 27
        """,
    "priority": """
        sched_setparam 142 118, sched_setscheduler 144 119, sched_setattr 314 274, setpriority 141 140, ioprio_set 251 30
        """,
    "the machine's administration": """
        syslog 103 116, acct 163 89, reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105,
        finit_module 313 273, delete_module 176 106, swapon 167 224, swapoff 168 225, sethostname 170 161,
        setdomainname 171 162, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266,
        lookup_dcookie 212 18, vhangup 153 58
        """,
}
_FORKS = "fork 57 -, vfork 58 -"
_CLONE = (56, 220)
_CLONE3 = 435
_REFUSED_COMMANDS = {  # second argument of ioctl: typing into a terminal; of fcntl: locks, leases, watches, larger pipes
    (16, 29): (0x5412, 0x541C),
    (72, 25): (6, 7, 37, 38, 1024, 1026, 1031),
}
_NEWEST = 450

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets in struct seccomp_data, little endian
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | 1, _ERRNO | 38


def make_filter(machine: str, *, processes: bool) -> bytes:
    """The filter as an array of ``struct sock_filter``, for ``bwrap --seccomp``.

    Args:
        machine: as ``os.uname().machine`` gives it, a key of ``AUDIT_NUMBERS``.
        processes: the program may start processes (a compiler does); threads are always allowed.

    Raises:
        ValueError: another machine.
    """
    if machine not in AUDIT_NUMBERS:
        raise ValueError(f"no seccomp filter for {machine}; there is one for {', '.join(AUDIT_NUMBERS)}")
    column = list(AUDIT_NUMBERS).index(machine)
    table = ",".join([*_DENIED.values(), *([] if processes else [_FORKS])])
    numbers = [call.split()[(1, -1)[column]] for call in table.split(",")]
    clone = [(_LOAD, 0, 0, _ARGUMENT_0), (_JUMP_BITS, 0, 1, _CLONE_NEW), _give(_EPERM)]
    clone += [] if processes else [(_JUMP_BITS, 1, 0, _CLONE_THREAD), _give(_EPERM)]
    commands = []
    for calls, refused in _REFUSED_COMMANDS.items():
        steps = [(_LOAD, 0, 0, _ARGUMENT_1), *(step for command in refused for step in _when(command, [_give(_EPERM)]))]
        commands += _when(calls[column], [*steps, _give(_ALLOW)])
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, AUDIT_NUMBERS[machine]),
        _give(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_GREATER, 0, 1, _NEWEST),
        _give(_ENOSYS),
        *_when(_CLONE[column], [*clone, _give(_ALLOW)]),
        *commands,
        *_when(_CLONE3, [_give(_ENOSYS)]),
        *(step for number in numbers if number != "-" for step in _when(int(number), [_give(_EPERM)])),
        _give(_ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in program)


_Step = tuple[int, int, int, int]


def _give(action: int) -> _Step:
    return (_RETURN, 0, 0, action)


def _when(number: int, steps: list[_Step]) -> list[_Step]:
    return [(_JUMP_EQUAL, 0, len(steps), number), *steps]
