import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure import counters
from gossamer.measure.counters import Counter, Tally, gpus, rapl, since
from gossamer.measure.energy import TRACKER_PUE, energy, times_less
from gossamer.measure.processors import PROCESSORS, assume, processor
from gossamer.measure.sensors import Sensors
from gossamer.measure.time import Clock

FULL = 262_143_328_850  # microjoules: what many packages start again at


class Machine:
    """A machine whose clock, zones and GPUs move when it is told to."""

    def __init__(self, root):
        self.root, self.now, self.busy = Path(root), 0.0, 0.0
        self.zones, self.boards, self.slept = {}, [], []

    def zone(self, folder, name, watts=0.0, idle=0.0, start=0, full=FULL):
        place = self.root / folder
        place.mkdir(parents=True)
        (place / "name").write_text(name + "\n")
        (place / "max_energy_range_uj").write_text(f"{full}\n")
        self.zones[place] = [float(start), watts, idle, full]
        self.write()
        return place

    def write(self):
        for place, (value, _, _, full) in self.zones.items():
            (place / "energy_uj").write_text(f"{int(value) % full}\n")

    def pass_(self, seconds, cpu=0.0, working=True):
        self.now += seconds
        self.busy += cpu
        for zone in self.zones.values():
            zone[0] += 1e6 * seconds * (zone[1] if working else zone[2])
        for board in self.boards:
            board.joules += seconds * (board.watts if working else board.idle)
        self.write()

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.pass_(seconds, working=False)

    def break_(self, place):
        """From now on its counter cannot be read; a folder cannot, whoever asks."""
        del self.zones[place]
        (place / "energy_uj").unlink()
        (place / "energy_uj").mkdir()

    def sensors(self, **settings):
        given = {
            "powercap": self.root,
            "visible": None,
            "nvml": none_installed,
            "machine": lambda: {"cpu": "AMD EPYC 7763 64-Core Processor", "accelerators": []},
            "clock": Clock(lambda: self.now, lambda: self.busy),
            "sleep": self.sleep,
        }
        return Sensors(**(given | settings))


class FakeNvml:
    """pynvml for boards that are SimpleNamespace(name, uuid, joules, watts, idle, limit)."""

    def __init__(self, boards, starts=True):
        self.boards, self.starts, self.open = boards, starts, 0

    def nvmlInit(self):
        if not self.starts:
            raise RuntimeError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, i):
        return self.boards[i]

    def nvmlDeviceGetName(self, board):
        return board.name

    def nvmlDeviceGetUUID(self, board):
        return board.uuid

    def nvmlDeviceGetEnforcedPowerLimit(self, board):
        if board.limit is None:
            raise RuntimeError("Not Supported")
        return int(board.limit * 1000)

    def nvmlDeviceGetTotalEnergyConsumption(self, board):
        if board.joules is None:
            raise RuntimeError("Not Supported")
        return int(board.joules * 1000)


def none_installed():
    raise ImportError("No module named 'pynvml'")


def board(name="H100", uuid="GPU-aa11", joules=1000.0, watts=300.0, idle=70.0, limit=700.0):
    return SimpleNamespace(name=name, uuid=uuid, joules=joules, watts=watts, idle=idle, limit=limit)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def tiers(found):
    return {part.source: part.tier for part in found.parts}


# --- counting


@pytest.mark.parametrize(
    ("before", "now", "full", "joules"), [(10, 25, None, 15), (10, 25, 100, 15), (90, 5, 100, 15), (7, 7, 100, 0)]
)
def test_a_counter_that_comes_round_once_gives_the_right_joules(before, now, full, joules):
    assert since(before, now, full) == joules


@pytest.mark.parametrize("full", [None, 100])
def test_a_counter_that_was_reset_is_not_one_that_came_round(full):
    with pytest.raises(ValueError, match="the counter went back from 500 J to 5 J"):
        since(500, 5, full)


def counted(*readings, full=262_143.3, step=1.0):
    """The tally of a counter that reads so, once every `step` seconds."""
    values, times = iter(readings), iter(step * i for i in range(100))
    tally = Tally([Counter("cpu package-0", "rapl", lambda: next(values), full=full)], lambda: next(times))
    for _ in readings[1:]:
        tally.read()
    return tally


def test_a_reset_is_not_taken_for_a_round():
    tally = counted(1000.0, 1005.0, 0.5, 5.5)
    assert tally.joules[0] == 5 and "so it was reset, 3 s into the run" in tally.lost[0]
    assert "would be 261139 J, more than 500 W gives" in tally.lost[0]


def test_a_round_that_can_be_counts_and_is_doubted():
    tally = counted(262_100.0, 50.0, 150.0)
    assert tally.joules[0] == pytest.approx(193.3) and tally.lost[0] is None
    assert "it started again at zero once, which is taken for a full round" in tally.doubt(0)
    assert counted(1.0, 2.0, 3.0).doubt(0) == ""
    assert counted(90.0, 10.0, 95.0, 20.0, full=100).doubt(0).startswith("; it started again at zero 2 times, each")


@given(st.lists(st.floats(0, 99), min_size=2, max_size=30), st.floats(0, 99), st.data())
def test_the_energy_of_the_parts_is_that_of_the_whole(steps, start, data):
    now, total = 0.0, start

    def tally():
        return Tally([Counter("cpu package-0", "rapl", lambda: total % 100, full=100)], lambda: now)

    cut = data.draw(st.integers(1, len(steps) - 1))
    whole, first, second = tally(), tally(), None
    for i, step in enumerate(steps):
        if i == cut:
            second = tally()
        now, total = now + 1, total + step
        whole.read()
        (first if i < cut else second).read()
    assert whole.joules[0] == pytest.approx(sum(steps), abs=1e-6)
    assert first.joules[0] + second.joules[0] == pytest.approx(whole.joules[0], abs=1e-6)


def test_rapl_takes_packages_and_nothing_that_is_in_or_around_them(machine):
    machine.zone("intel-rapl:0", "package-0")
    machine.zone("intel-rapl:0:0", "core")
    machine.zone("intel-rapl:0:1", "uncore")
    machine.zone("intel-rapl:0:2", "dram")
    machine.zone("intel-rapl:1", "package-1")
    machine.zone("intel-rapl:1:0", "dram")
    machine.zone("intel-rapl:2", "psys")
    machine.zone("intel-rapl-mmio:0", "package-0")
    (machine.root / "intel-rapl").mkdir()  # the control type itself has no name
    assert [one.source for one in rapl(machine.root)] == ["cpu package-0", "cpu package-1"]
    with_memory = [one.source for one in rapl(machine.root, dram=True)]
    assert with_memory == ["cpu package-0", "cpu package-1", "dram package-0", "dram package-1"]
    assert rapl(machine.root)[0].full == FULL / 1e6


def test_the_second_view_of_a_package_serves_where_it_is_the_only_one(machine):
    machine.zone("intel-rapl-mmio:0", "package-0")
    machine.zone("intel-rapl:9", "package-1-die-0")
    assert {one.source for one in rapl(machine.root)} == {"cpu package-0", "cpu package-1-die-0"}


def test_there_is_no_rapl_where_there_is_no_folder(tmp_path):
    assert rapl(tmp_path / "none") == [] == rapl(tmp_path)


# --- energy from counters


def test_packages_are_counted_once_and_idle_is_taken_off(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, idle=20)
    machine.zone("intel-rapl:0:0", "core", watts=70)
    machine.zone("intel-rapl:1", "psys", watts=150)
    machine.zone("intel-rapl-mmio:0", "package-0", watts=100)
    found = energy(lambda: machine.pass_(2), 30, sensors=machine.sensors())
    assert (found.runs, found.seconds) == (15, 30)
    assert found.joules == pytest.approx(30 * (100 - 20))
    assert found.joules_per_run == pytest.approx(160)
    assert found.kwh == pytest.approx(2400 / 3.6e6)
    assert found.idle_watts == pytest.approx(20) and machine.slept == [5]
    assert not found.estimated and found.assumed is None
    assert tiers(found) == {"cpu package-0": "rapl"}
    assert "20 W at rest taken off" in found.parts[0].note


def test_without_idle_all_of_it_counts_and_nothing_sleeps(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, idle=20)
    found = energy(lambda: machine.pass_(2), 30, False, sensors=machine.sensors())
    assert found.joules == pytest.approx(3000)
    assert found.idle_watts is None and machine.slept == []


@pytest.mark.parametrize("before", [5, 2999])
def test_energy_survives_a_counter_that_starts_again(machine, before):
    machine.zone("intel-rapl:0", "package-0", watts=100, start=FULL - before * 1_000_000)
    found = energy(lambda: machine.pass_(1), 30, False, warmup=0, sensors=machine.sensors())
    assert found.joules == pytest.approx(3000)


def test_a_counter_that_starts_again_many_times_is_looked_at_often_enough(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, full=600_000_000)
    found = energy(lambda: machine.pass_(0.25), 60, False, sensors=machine.sensors())
    assert found.joules == pytest.approx(6000)
    assert "may be missing" not in found.parts[0].note


def test_a_run_that_outlasts_its_counter_is_doubted(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, full=60_000_000_000)
    found = energy(lambda: machine.pass_(300), 30, False, sensors=machine.sensors())
    assert "starts again every 60000 J and went 300 s unread, so some may be missing" in found.parts[0].note


def test_less_than_at_rest_is_nothing_and_says_so(machine):
    machine.zone("intel-rapl:0", "package-0", watts=10, idle=20)
    found = energy(lambda: machine.pass_(2), 30, sensors=machine.sensors())
    assert found.joules == 0 and "nothing is left" in found.parts[0].note


def test_memory_is_counted_on_request(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    memory = machine.zone("intel-rapl:0:1", "dram", watts=7)
    assert energy(lambda: machine.pass_(1), 10, False, sensors=machine.sensors()).joules == pytest.approx(1000)
    found = energy(lambda: machine.pass_(1), 10, False, sensors=machine.sensors(dram=True))
    assert found.joules == pytest.approx(1070) and not found.estimated
    machine.break_(memory)
    found = energy(lambda: machine.pass_(1), 10, False, sensors=machine.sensors(dram=True))
    assert tiers(found) == {"cpu package-0": "rapl", "dram package-0": "unavailable"} and found.estimated


def test_twice_the_seconds_are_twice_the_energy(machine):
    machine.zone("intel-rapl:0", "package-0", watts=90, idle=30)
    one, two = (energy(lambda: machine.pass_(1), s, pue=1.2, sensors=machine.sensors()) for s in (30, 60))
    assert two.joules == pytest.approx(2 * one.joules)
    assert two.joules_per_run == pytest.approx(one.joules_per_run)


def test_pue_multiplies_the_sum_and_not_the_parts(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    found = energy(lambda: machine.pass_(1), 10, False, pue=TRACKER_PUE, sensors=machine.sensors())
    assert found.joules == pytest.approx(1580) and found.pue == 1.58
    assert found.parts[0].joules == pytest.approx(1000)


# --- counters that go


def test_a_counter_that_goes_half_way_leaves_an_estimate_that_says_so(machine):
    place = machine.zone("intel-rapl:0", "package-0", watts=100)

    def work():
        machine.pass_(2, cpu=16)
        if machine.now >= 10 and place in machine.zones:
            machine.break_(place)

    found = energy(work, 30, False, warmup=0, sensors=machine.sensors())
    assert found.estimated and tiers(found) == {"cpu": "estimate", "ram": "unavailable"}
    assert found.joules == pytest.approx(240 * 280 / 128)
    assert "cpu package-0: is a directory, 10 s into the run" in found.parts[0].note


def test_one_package_of_two_is_not_reported_as_both(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    machine.break_(machine.zone("intel-rapl:1", "package-1", watts=100))
    found = energy(lambda: machine.pass_(1, cpu=1), 10, sensors=machine.sensors())
    assert tiers(found) == {"cpu": "estimate", "ram": "unavailable"} and found.idle_watts is None


def test_a_counter_for_root_only_says_what_to_type(machine, monkeypatch):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    read = Path.read_text

    def denied(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", denied)
    found = energy(lambda: machine.pass_(1, cpu=1), 10, sensors=machine.sensors())
    assert found.estimated
    assert "permission denied (root may read it" in found.parts[0].note
    assert "sudo chmod a+r /sys/class/powercap/*/energy_uj" in found.parts[0].note


def test_a_counter_that_stands_still_is_no_measurement(machine):
    machine.zone("intel-rapl:0", "package-0", watts=0)
    found = energy(lambda: machine.pass_(1, cpu=1), 10, sensors=machine.sensors())
    assert found.estimated and "it did not move in 10 s" in found.parts[0].note


def test_what_the_work_raises_comes_through(machine):
    library = FakeNvml([board()])

    def work():
        raise RuntimeError("worn out")

    with pytest.raises(RuntimeError, match="worn out"):
        energy(work, sensors=machine.sensors(nvml=lambda: library))
    assert library.open == 0


# --- estimates


def test_no_sensor_is_an_estimate_with_its_numbers(machine):
    found = energy(lambda: machine.pass_(2, cpu=8), 30, sensors=machine.sensors())
    assert found.estimated and found.idle_watts is None and machine.slept == []
    cpu, ram = found.parts
    assert (cpu.source, cpu.tier, cpu.estimated) == ("cpu", "estimate", True)
    assert cpu.joules == pytest.approx(120 * 280 / 128)
    assert "120 CPU s of this process x 280 W TDP / 128 threads" in cpu.note and str(machine.root) in cpu.note
    assert ram.joules is None and "not in the sum: the process holds other models as well" in ram.note
    assert found.joules == cpu.joules
    assert asdict(found)["assumed"] == {
        "cpu": "AMD EPYC 7763 64-Core Processor",
        "tdp_watts": 280.0,
        "threads": 128,
        "origin": "listed",
        "cpu_seconds": 120.0,
        "ram_watts": None,
    }
    json.dumps(asdict(found), allow_nan=False)


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_an_estimate_of_two_halves_is_that_of_the_whole(one, other):
    joules = [assume("AMD EPYC 7763", s, 8).cpu_joules for s in (one, other, one + other)]
    assert joules[0] + joules[1] == pytest.approx(joules[2])


def test_all_threads_busy_draw_the_tdp():
    assert assume("AMD EPYC 7763", 10 * 128, 2).cpu_joules == pytest.approx(10 * 280)


def test_the_table_of_processors_is_sound():
    assert all(0.5 <= row.watts / row.threads <= 12 for row in PROCESSORS)
    assert [row.typical for row in PROCESSORS] == sorted(row.typical for row in PROCESSORS)  # families come last


@pytest.mark.parametrize(
    ("name", "watts", "threads"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+", 350, 112),
        ("Intel(R) Xeon(R) Platinum 8480CL", 350, 112),
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", 150, 40),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 120, 28),
        ("AMD EPYC 7763 64-Core Processor", 280, 128),
        ("AMD EPYC 7713P 64-Core Processor", 225, 128),
        ("AMD EPYC 7B99 somewhere's own", 225, 96),
        ("AMD EPYC", 225, 96),
        ("AMD Ryzen 9 5950X 16-Core Processor", 105, 32),
        ("13th Gen Intel(R) Core(TM) i9-13900KF", 125, 32),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", 28, 8),
        ("intel(r) core(tm) i7-8550u cpu", 15, 8),
    ],
)
def test_processors_are_found_by_their_model_name(name, watts, threads):
    row = processor(name)
    assert (row.watts, row.threads) == (watts, threads)


@pytest.mark.parametrize("name", ["", "aarch64", "AMD Ryzen 9 7950X3D 16-Core Processor", "Intel(R) Xeon(R) CPU"])
def test_an_unknown_processor_is_four_watts_a_thread(name, machine):
    assert processor(name) is None
    found = assume(name, 10, 8)
    assert (found.tdp_watts, found.threads, found.origin) == (32, 8, "unknown")
    assert found.cpu_joules == pytest.approx(40)
    unknown = machine.sensors(machine=lambda: {"cpu": name, "accelerators": []})
    assert "assumed for an unknown processor" in energy(lambda: machine.pass_(9), 9, sensors=unknown).parts[0].note


def test_a_family_is_called_typical_and_what_is_given_goes_first(machine):
    assert assume("AMD EPYC", 1, 2).origin == "typical"
    found = assume("AMD EPYC", 10, 2, tdp_watts=100, threads=20, ram_watts=3)
    assert (found.tdp_watts, found.threads, found.origin, found.ram_watts) == (100, 20, "given", 3)
    given = machine.sensors(tdp_watts=100, threads=20, ram_watts=3)
    assert energy(lambda: machine.pass_(1, cpu=2), 10, sensors=given).joules == pytest.approx(20 * 5 + 30)


def test_what_another_model_in_the_process_holds_costs_nothing():
    """The same work beside 100 MB of somebody else's is the same estimate for the same CPU seconds."""
    import numpy as np

    sensors = Sensors(powercap=Path("/nowhere"), gpu=False)
    alone = energy(lambda: sum(range(1000)), 0.05, idle=False, sensors=sensors)
    other = np.ones(12_500_000)
    beside = energy(lambda: sum(range(1000)), 0.05, idle=False, sensors=sensors)
    assert len(other) and tiers(alone) == tiers(beside) == {"cpu": "estimate", "ram": "unavailable"}
    for found in (alone, beside):
        assert found.joules == pytest.approx(found.assumed.cpu_joules)


def test_this_machine_has_an_answer():
    found = energy(lambda: sum(range(10_000)), 0.05, idle=False, sensors=Sensors(gpu=False))
    assert found.runs >= 1 and found.joules >= 0 and found.seconds >= 0.05 and found.parts


# --- GPUs


def test_gpu_and_processor_are_added_up(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, idle=20)
    machine.boards.append(board())
    library = FakeNvml(machine.boards)
    found = energy(lambda: machine.pass_(2), 30, sensors=machine.sensors(nvml=lambda: library))
    assert tiers(found) == {"cpu package-0": "rapl", "gpu 0 (H100)": "nvml"}
    assert found.joules == pytest.approx(30 * (80 + 230)) and found.idle_watts == pytest.approx(90)
    assert not found.estimated and library.open == 0


def test_a_counted_gpu_goes_with_an_estimated_processor(machine):
    machine.boards.append(board(name=b"V100"))
    found = energy(lambda: machine.pass_(2, cpu=2), 30, sensors=machine.sensors(nvml=lambda: FakeNvml(machine.boards)))
    assert tiers(found) == {"cpu": "estimate", "ram": "unavailable", "gpu 0 (V100)": "nvml"}
    assert found.estimated and found.idle_watts == pytest.approx(70)
    assert found.joules == pytest.approx(30 * 280 / 128 + 30 * 230)


@pytest.mark.parametrize(
    ("visible", "sources"),
    [
        (None, ["gpu 0 (A)", "gpu 1 (B)"]),
        ("1", ["gpu 1 (B)"]),
        ("GPU-bb", ["gpu 1 (B)"]),
        (" 0, 1", ["gpu 0 (A)", "gpu 1 (B)"]),
        ("", []),
        ("-1", []),
    ],
)
def test_only_gpus_that_may_be_used_are_counted(visible, sources):
    boards = [board("A", "GPU-aa"), board("B", "GPU-bb")]
    with gpus(lambda: FakeNvml(boards), visible) as (found, missing):
        assert [one.source for one in found] == sources and missing == ""


def test_why_there_is_no_gpu():
    with gpus(none_installed, None) as (found, missing):
        assert found == [] and missing == "pynvml is not installed (pip install nvidia-ml-py)"
    with gpus(lambda: FakeNvml([], starts=False), None) as (found, missing):
        assert found == [] and missing == "NVML does not start: NVML Shared Library Not Found"
    with gpus(lambda: FakeNvml([board()]), "MIG-1234") as (found, missing):
        assert found == [] and missing == "CUDA_VISIBLE_DEVICES=MIG-1234 names no GPU of NVML"
    with gpus(lambda: SimpleNamespace(nvmlInit=int, nvmlShutdown=int), None) as (found, missing):
        assert found == [] and missing.startswith("NVML does not list the GPUs: ")


def test_a_gpu_that_nobody_counts_is_named_where_there_is_one(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    with_gpu = {"machine": lambda: {"cpu": "", "accelerators": ["H100"]}}
    found = energy(lambda: machine.pass_(1), 10, sensors=machine.sensors(**with_gpu))
    assert found.parts[1].joules is None and found.parts[1].tier == "unavailable" and found.estimated
    assert "pip install nvidia-ml-py" in found.parts[1].note and "gpu=False" in found.parts[1].note
    found = energy(lambda: machine.pass_(1), 10, sensors=machine.sensors(gpu=False, **with_gpu))
    assert not found.estimated and len(found.parts) == 1


@pytest.mark.parametrize(("limit", "tier", "joules"), [(250.0, "estimate", 2500.0), (None, "unavailable", None)])
def test_a_gpu_without_a_counter_is_its_power_limit_or_nothing(machine, limit, tier, joules):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    old = FakeNvml([board("P100", joules=None, limit=limit)])
    found = energy(lambda: machine.pass_(1), 10, False, sensors=machine.sensors(nvml=lambda: old))
    assert (found.parts[1].tier, found.parts[1].joules) == (tier, joules)
    assert "NVML: Not Supported" in found.parts[1].note and found.estimated
    assert tiers(found)["cpu package-0"] == "rapl"


def test_a_gpu_that_goes_half_way_is_estimated(machine):
    one = board()
    machine.boards.append(one)

    def work():
        machine.pass_(1)
        if machine.now >= 5:
            one.joules, machine.boards[:] = None, []

    library = FakeNvml([one])
    found = energy(work, 10, False, warmup=0, sensors=machine.sensors(nvml=lambda: library))
    assert tiers(found)["gpu 0 (H100)"] == "estimate"
    assert found.parts[-1].joules == 7000 and "Not Supported, 5 s into the run" in found.parts[-1].note


# --- CodeCarbon


class Tracker:
    """codecarbon.OfflineEmissionsTracker as far as it is used."""

    made = None

    def __init__(self, **settings):
        self.settings, self.log, self.answers = settings, [], True
        type(self).made = self

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")
        if self.works:
            self.final_emissions_data = SimpleNamespace(cpu_energy=1e-3, gpu_energy=self.gpu, ram_energy=5e-4)


def fake_codecarbon(monkeypatch, works=True, gpu=2e-3):
    tracker = type("OfflineEmissionsTracker", (Tracker,), {"works": works, "gpu": gpu})
    module = SimpleNamespace(OfflineEmissionsTracker=tracker, __version__="3.3.2")
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    return tracker


def test_codecarbon_answers_when_it_is_asked(machine, monkeypatch):
    tracker = fake_codecarbon(monkeypatch)
    machine.zone("intel-rapl:0", "package-0", watts=100)
    found = energy(lambda: machine.pass_(1), 10, pue=2, tier="codecarbon", sensors=machine.sensors())
    assert tiers(found) == {"cpu": "codecarbon", "gpu": "codecarbon", "ram": "codecarbon"}
    assert found.kwh == pytest.approx(2 * 3.5e-3) and found.runs == 10 and found.estimated
    assert found.joules_per_run == pytest.approx(2 * 3.5e-3 * 3.6e6 / 10)
    assert "codecarbon 3.3.2" in found.parts[0].note
    settings = tracker.made.settings
    assert settings["output_methods"] == [] and settings["pue"] == 1 and len(settings["country_iso_code"]) == 3
    assert tracker.made.log == ["start", "stop"]


def test_codecarbon_that_fails_leaves_an_estimate(machine, monkeypatch):
    fake_codecarbon(monkeypatch, works=False)
    with_gpu = machine.sensors(machine=lambda: {"cpu": "AMD EPYC 7763", "accelerators": ["H100"]})
    found = energy(lambda: machine.pass_(1, cpu=1), 10, tier="codecarbon", sensors=with_gpu)
    assert tiers(found) == {"cpu": "estimate", "ram": "unavailable", "gpu": "unavailable"}
    assert found.parts[0].note.startswith("codecarbon gave no result; 10 CPU s")


def test_codecarbon_that_counts_nothing_on_a_gpu_is_no_zero(machine, monkeypatch):
    fake_codecarbon(monkeypatch, gpu=0.0)
    assert "gpu" not in tiers(energy(lambda: machine.pass_(1), 5, tier="codecarbon", sensors=machine.sensors()))
    with_gpu = machine.sensors(machine=lambda: {"cpu": "", "accelerators": ["H100"]})
    found = energy(lambda: machine.pass_(1), 5, tier="codecarbon", sensors=with_gpu)
    assert found.parts[-1].tier == "unavailable" and "counted nothing on ['H100']" in found.parts[-1].note


def test_codecarbon_is_stopped_when_the_work_breaks(machine, monkeypatch):
    tracker = fake_codecarbon(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        energy(lambda: 1 / 0, warmup=0, tier="codecarbon", sensors=machine.sensors())
    assert tracker.made.log == ["start", "stop"]


def test_without_codecarbon_the_error_says_what_to_type(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(ImportError, match="pip install codecarbon"):
        energy(lambda: None, tier="codecarbon", sensors=machine.sensors())


# --- comparing


def test_how_many_times_less(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100)
    slow = energy(lambda: machine.pass_(2), 30, pue=TRACKER_PUE, sensors=machine.sensors())
    fast = energy(lambda: machine.pass_(0.1), 30, sensors=machine.sensors())
    assert times_less(slow, fast) == pytest.approx(20)
    assert times_less(fast, slow) == pytest.approx(1 / 20)


def test_the_counted_is_not_compared_with_the_estimated(machine, tmp_path):
    estimated = energy(lambda: machine.pass_(1, cpu=1), 10, sensors=machine.sensors())
    machine.zone("intel-rapl:0", "package-0", watts=100)
    counted = energy(lambda: machine.pass_(1), 10, sensors=machine.sensors())
    with pytest.raises(ValueError, match=r"energy is cpu package-0 by rapl, the other's cpu by estimate, ram by unav"):
        times_less(counted, estimated)
    with_idle_in_it = energy(lambda: machine.pass_(1), 10, False, sensors=machine.sensors())
    with pytest.raises(ValueError, match="the same idle for both"):
        times_less(counted, with_idle_in_it)


def test_nothing_to_divide_by_is_refused(machine):
    machine.zone("intel-rapl:0", "package-0", watts=10, idle=20)
    nothing = energy(lambda: machine.pass_(1), 10, sensors=machine.sensors())
    with pytest.raises(ValueError, match=r"took 0.0 J a run: expected more; measure it for more seconds"):
        times_less(nothing, nothing)


# --- arguments


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seconds": 0}, "seconds=0: expected more than 0"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"idle_seconds": -1}, "idle_seconds=-1: expected more than 0"),
        ({"warmup": -1}, "warmup=-1: expected at least 0"),
        ({"pue": 0.9}, r"pue=0.9: expected at least 1 \(1 for the machine alone, 1.58 for SustaiNLP's\)"),
        ({"tier": "guess"}, 'tier=\'guess\': expected "best" or "codecarbon"'),
    ],
)
def test_arguments_that_cannot_be_are_refused(settings, text, machine):
    with pytest.raises(ValueError, match=text):
        energy(lambda: None, **settings, sensors=machine.sensors())


def test_work_warms_up_before_it_counts_and_runs_at_least_once(machine):
    calls = []

    def work():
        calls.append(machine.now)
        machine.pass_(50)

    found = energy(work, 1, warmup=2, sensors=machine.sensors())
    assert len(calls) == 3 and found.runs == 1 and found.seconds == 50


def test_a_long_idle_window_is_slept_in_pieces(machine):
    machine.zone("intel-rapl:0", "package-0", watts=100, idle=30, full=400_000_000)
    found = energy(lambda: machine.pass_(1), 10, idle_seconds=25, sensors=machine.sensors())
    assert machine.slept == [10, 10, 5] and found.idle_watts == pytest.approx(30)


def test_reasons_are_never_empty():
    assert counters.reason(RuntimeError()) == "RuntimeError"
    assert counters.reason(FileNotFoundError(2, "No such file or directory", "x")) == "no such file or directory"
