"""The size worked out before a run is the size that a full buffer has; what there is, is asked rightly."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from uld_torchrl.data import ReplayKeys, make_replay_buffer, memory
from uld_torchrl.data.memory import available_bytes, check_room, replay_bytes
from uld_torchrl.errors import InputError


def step(lanes, **observation):
    flag = torch.zeros(lanes, 1, dtype=torch.bool)
    after = {
        "reward": torch.zeros(lanes, 1),
        "terminated": flag,
        "truncated": flag,
        "done": flag,
        **observation,
    }
    action = torch.zeros(lanes, 18, dtype=torch.long)
    return TensorDict({"action": action, "next": after, **observation}, batch_size=[lanes])


def held(rb):
    records = sum(tensor.nbytes for tensor in rb._storage._storage.values(True, True))
    sums = rb._sampler._priorities
    frames = rb.frames.nbytes if hasattr(rb, "frames") else 0
    return records + frames + sums.nbytes


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_the_estimate_is_what_a_buffer_holds(lanes, kind):
    capacity = 4096 * lanes  # whole blocks of priorities
    if kind == "vectors":
        one, options = step(lanes, observation=torch.zeros(lanes, 5)), {}
    else:
        one, options = (
            step(lanes, pixels=torch.zeros(lanes, 4, 20, 20, dtype=torch.uint8)),
            {"frame_stack": 4},
        )
    rb = make_replay_buffer(capacity=capacity, num_lanes=lanes, **options)
    rb.add(one)
    keys = ReplayKeys.of_images() if kind == "images" else None
    assert replay_bytes(one, capacity, keys=keys, **options) == held(rb)


def test_a_million_steps_of_atari_and_dmc_pixels():
    """The figures of the README: 7 056 bytes a gray frame, 21 168 a colour frame, and what is beside them."""
    atari = step(1, pixels=torch.zeros(1, 4, 84, 84, dtype=torch.uint8))
    dmc = step(1, pixels=torch.zeros(1, 9, 84, 84, dtype=torch.uint8))
    dmc["action"] = torch.zeros(1, 6)
    sizes = [
        replay_bytes(one, 1_000_000, frame_stack=k, keys=ReplayKeys.of_images())
        for one, k in ((atari, 4), (dmc, 3))
    ]
    assert [round(size / 1e9, 2) for size in sizes] == [7.35, 21.56]
    assert sizes[0] < 1.05 * 7056 * 1_000_000


def test_a_buffer_that_does_not_fit_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device, folder: 10_000_000_000)
    assert check_room(9_000_000_000, 1000) == "replay buffer: 9.00 GB of memory for 1000 steps, 10.00 GB free"
    with pytest.raises(
        InputError, match=r"needs 20.00 GB of memory for 1000 steps, but only 10.00 GB are free"
    ) as error:
        check_room(20_000_000_000, 1000)
    assert "replay.capacity below 400" in str(error.value) and "--buffer-storage memmap" in str(error.value)


def test_small_sizes_are_said_in_megabytes_and_cuda_is_not_sent_to_files(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device, folder: 2_000_000)
    assert check_room(1_500_000, 10) == "replay buffer: 1.5 MB of memory for 10 steps, 2.0 MB free"
    with pytest.raises(
        InputError, match=r"but only 2.0 MB are free\..* or train with --device cpu\."
    ) as error:
        check_room(3_000_000, 10, "cuda")
    assert "memmap" not in str(error.value)


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"GB of disk .*larger disk \(--run-dir\)"):
        check_room(10**18, 1000, folder=tmp_path / "not" / "made" / "yet")


def test_where_nothing_is_known_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "none")
    assert available_bytes() is None
    assert check_room(10**18, 1000).endswith("how much is free is not known")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A machine with 7168 bytes free and control groups that the test writes; gives the file of its own."""
    own, meminfo = tmp_path / "own", tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:       7 kB\n")
    for name, path in (("CGROUP", tmp_path / "sys"), ("OWN_GROUPS", own), ("MEMINFO", meminfo)):
        monkeypatch.setattr(memory, name, path)
    return own


def limited(folder, names, limit, used=3000, cached=700):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        (names[0], f"{limit}\n"),
        (names[1], f"{used}\n"),
        ("memory.stat", f"anon 1\ninactive_file 1\n{names[2]} {cached}\n"),
    ):
        (folder / name).write_text(text)


@pytest.mark.parametrize("own", [None, "0::/\n"])
def test_a_control_groups_limit_counts(own, groups, tmp_path):
    if own is not None:
        groups.write_text(own)
    limited(tmp_path / "sys", V2, 5000)
    assert available_bytes() == 2700
    limited(tmp_path / "sys", V2, 2000)
    assert available_bytes() == 0
    limited(tmp_path / "sys", V2, "max")
    assert available_bytes() == 7168
    limited(tmp_path / "sys", V2, 100_000)
    assert available_bytes() == 7168


@pytest.mark.parametrize(
    ("line", "root", "names", "none"),
    [
        ("0::/job/step", "", V2, "max"),
        ("4:memory:/job/step", "memory", V1, 9223372036854771712),
        ("4:cpu,memory:/job/step", "memory", V1, 9223372036854771712),
    ],
)
def test_the_least_of_nested_groups_counts(line, root, names, none, groups, tmp_path):
    groups.write_text(f"9:name=systemd:/job/step\n8:pids:/\n{line}\n")
    top = tmp_path / "sys" / root
    for folder, limit in ((top, none), (top / "job", 5000), (top / "job/step", none), (top / "other", 10)):
        limited(folder, names, limit)
    assert available_bytes() == 2700
    limited(top / "job/step", names, 4000)
    assert available_bytes() == 1700
    limited(top / "job/step", names, 6000)
    assert available_bytes() == 2700
    limited(top / "job", names, none)
    assert available_bytes() == 3700
    limited(top, names, 3500, cached=0)
    assert available_bytes() == 500


def test_without_a_limit_version_1_is_not_taken_for_one(groups, tmp_path, monkeypatch):
    groups.write_text("4:memory:/\n")
    limited(tmp_path / "sys/memory", V1, 9223372036854771712)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert available_bytes() is None


def test_in_a_container_the_path_may_be_one_of_the_host(groups, tmp_path):
    groups.write_text("0::/docker/0123\n")
    limited(tmp_path / "sys", V2, 5000)
    assert available_bytes() == 2700
