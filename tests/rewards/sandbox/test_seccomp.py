"""The seccomp filter, interpreted here as the kernel would."""

import struct

import pytest

from r1jax.rewards.sandbox import seccomp


def decide(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = (0, 0)) -> int:
    data = {0: number, 4: arch, 16: arguments[0] & 0xFFFFFFFF, 24: arguments[1] & 0xFFFFFFFF}
    steps = list(struct.iter_unpack("<HBBI", program))
    place = value = 0
    while True:
        code, if_true, if_false, constant = steps[place]
        place += 1
        if code == 0x20:
            value = data[constant]
        elif code == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x25: value > constant, 0x45: bool(value & constant)}[code]
            place += if_true if holds else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("processes", [False, True])
def test_the_filter_decides_as_its_table_says(machine, processes):
    program = seccomp.make_filter(machine, processes=processes)
    arch = seccomp.AUDIT_NUMBERS[machine]
    column = list(seccomp.AUDIT_NUMBERS).index(machine)

    def verdict(*numbers, arguments=(0, 0)):
        return decide(program, arch=arch, number=numbers[column], arguments=arguments)

    assert verdict(0, 63) == ALLOW  # read
    assert verdict(101, 117) == EPERM  # ptrace
    assert verdict(425, 425) == EPERM  # io_uring_setup
    assert verdict(435, 435) == ENOSYS  # clone3
    assert verdict(451, 451) == verdict(500, 500) == verdict(0x40000001, 0x40000001) == ENOSYS
    assert verdict(56, 220, arguments=(0x3D0F00, 0)) == ALLOW  # clone of a thread
    assert verdict(56, 220, arguments=(17, 0)) == (ALLOW if processes else EPERM)  # clone of a process
    assert verdict(56, 220, arguments=(0x3D0F00 | 0x10000000, 0)) == EPERM  # a thread with a user namespace
    assert verdict(16, 29, arguments=(0, 0x5401)) == ALLOW  # ioctl TCGETS
    assert verdict(16, 29, arguments=(0, 0x5412 | 1 << 32)) == EPERM  # ioctl TIOCSTI, high bits set
    assert decide(program, arch=0x40000003, number=0) == KILL
    if machine == "x86_64":
        assert verdict(57, 0) == (ALLOW if processes else EPERM)  # fork
    assert len(program) % 8 == 0 and len(program) // 8 < 4096


def test_there_is_no_filter_for_other_machines():
    with pytest.raises(ValueError, match="no seccomp filter for riscv64; there is one for x86_64, aarch64"):
        seccomp.make_filter("riscv64", processes=False)
