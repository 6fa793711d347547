"""The same artefact on a Ray cluster: one machine reads and writes, all of them answer.

The rows go window by window over a belt, an actor that holds those which are not answered yet; Ray Data takes them from
there, one task pulling, and gives them to a pool of actors that have loaded the artefact.  So the memory of all sides
is bounded, and whatever dies, a window is there until its answers are.
"""

import json
import logging
import os
import socket
import warnings
from asyncio import Condition
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore, Thread
from typing import Any

from gossamer.engines.part import origin
from gossamer.engines.predictor import Cuts
from gossamer.engines.stream import WINDOW, Answered, Row, ahead, read, told
from gossamer.engines.texts import facts
from gossamer.environment import cores, install

EACH = 8  # windows on the belt for each actor: those it works at, those that wait for it, those that wait for others


def windows(
    rows: Iterable[Row],
    folder: str | Path,
    address: str,
    engine: str,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    size: int | None = None,
    live: bool = False,
) -> Generator[Answered, None, None]:
    """Rows, `size` at a time, with their answers in order, as `gossamer.engines.stream.windows` gives them.

    folder: the artefact, which is sent to machines that do not have it.  address: "local" starts a cluster on this
    machine, anything else is what ray.init takes.  threads: of one actor (None: one); there are as many actors as the
    cluster has processors for.  Every machine needs gossamer and the engine.

    Raises:
        ImportError: ray is not installed; the message says what to type.
        ConnectionError: there is no cluster at this address, or it gives up.
        ValueError: no machine has so many threads; and what reading and answering raise, after the answers before it.
    """
    size = size or WINDOW * batch_size
    with _connected(address) as ray, _quietly(ray):
        each = threads or 1
        machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        actors = sum(has // each for has in machines)
        if not actors:
            raise ValueError(f"no machine of the cluster has {each} processors (found {machines}); lower --threads")
        place = Path(folder).resolve()
        belt = _Feeder(ray, actors * EACH, Cuts(facts(place)))
        content = ray.put({f.relative_to(place).as_posix(): f.read_bytes() for f in _files(place)})
        known = {"folder": str(place), "origin": origin(place), "content": [content]}
        answered = (
            ray.data.from_items([0], override_num_blocks=1)
            .map_batches(_pulled, fn_kwargs={"belt": belt.belt}, num_cpus=0)
            .map(
                _Answers,
                fn_constructor_kwargs=known | {"engine": engine, "threads": each, "batch_size": batch_size},
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_cpus=each,
            )
        )
        belt.start(rows, size, live)
        try:
            yield from belt.matched(answered.iter_rows())
        except ray.exceptions.RayError as error:
            words = str(error).strip().splitlines()[-1]
            raise ConnectionError(
                f"the cluster gave up: {words} (each of its machines needs gossamer: {install(engine)})"
            ) from error
        finally:
            belt.stop(live)


class _Feeder:
    """The reading side: windows onto the belt, room permitting, and off it when they are answered."""

    def __init__(self, ray: Any, room: int, cuts: Cuts) -> None:
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.ray, self.room, self.cuts, self.stopped = ray, Semaphore(room), cuts, False
        self.belt = ray.remote(num_cpus=0, scheduling_strategy=here)(_Belt).remote()
        self.waiting, self.error = deque[list[Row]](), list[BaseException]()

    def start(self, rows: Iterable[Row], size: int, live: bool) -> None:
        """Read in a thread."""
        self.thread = Thread(target=self._feed, args=(rows, size, live), name="gossamer-feeds", daemon=True)
        self.thread.start()

    def _feed(self, rows: Iterable[Row], size: int, live: bool) -> None:
        last = 0
        try:
            with closing(ahead(rows, size, json.dumps, live)) as found:
                for window, text in found:
                    self.room.acquire()
                    if self.stopped:
                        return
                    self.waiting.append(window)
                    self.ray.get(self.belt.put.remote(last, text))
                    last += 1
        except BaseException as error:
            self.error.append(error)
        finally:
            with suppress(Exception):  # the cluster may be gone
                self.ray.get(self.belt.end.remote(last))

    def matched(self, found: Iterator[dict[str, Any]]) -> Iterator[Answered]:
        """The windows in their order with what was answered, each once, however it comes back."""
        early: dict[int, dict[str, Any]] = {}
        due = 0
        for one in found:
            if one["number"] >= due:  # else a task that died has pulled it again
                early[one["number"]] = one
            while due in early:
                said = early.pop(due)
                if said["error"]:
                    raise ValueError(said["error"])
                window = self.waiting.popleft()
                self.cuts.add(said["cut"], len(window))  # what an actor says of it nobody hears
                yield window, json.loads(said["said"])
                due += 1
                self.belt.done.remote(due)
                self.room.release()
        if self.error:
            raise self.error[0]
        assert not self.waiting, f"{len(self.waiting)} windows came back without answers"

    def stop(self, live: bool) -> None:
        """Let the thread end."""
        self.stopped = True
        self.room.release()
        if not live:
            self.thread.join()


class _Belt:
    """The windows that are not answered yet, by number; an actor."""

    def __init__(self) -> None:
        self.windows: dict[int, str] = {}
        self.change, self.first, self.last = Condition(), 0, float("inf")

    async def put(self, number: int, window: str) -> None:
        """Add the next one."""
        async with self.change:
            self.windows[number] = window
            self.change.notify_all()

    async def end(self, last: int) -> None:
        """There will be no more than so many."""
        async with self.change:
            self.last = last
            self.change.notify_all()

    async def done(self, first: int) -> None:
        """Forget those before `first`."""
        for number in range(self.first, first):
            self.windows.pop(number, None)
        self.first = max(self.first, first)

    async def take(self, number: int) -> str | None:
        """A window, once it is there; none at the end.  Empty: its answers are there already."""
        async with self.change:
            await self.change.wait_for(lambda: number < self.first or number in self.windows or number >= self.last)
        return "[]" if number < self.first else self.windows.get(number)


def _pulled(batch: Any, belt: Any) -> Iterator[dict[str, list[Any]]]:
    """The windows of the belt, one a row; a task of Ray Data, which begins again at the first if its process dies."""
    import ray

    for number in count():
        window = ray.get(belt.take.remote(number))
        if window is None:
            return
        yield {"number": [number], "rows": [window]}


class _Answers:
    """The artefact, loaded once, answering windows; an actor of Ray Data."""

    def __init__(
        self, folder: str, origin: str, content: list[Any], engine: str, threads: int, batch_size: int
    ) -> None:
        from gossamer.engines import load

        self.batch_size, self.place = batch_size, Path(folder)
        if not _is(self.place, origin):
            self.place = self._unpacked(content)
        self.model = load(self.place, engine, threads)

    def _unpacked(self, content: list[Any]) -> Path:
        import ray

        self.room = TemporaryDirectory(prefix="gossamer-")  # goes with the actor: graphs may be opened late
        place = Path(self.room.name)
        for name, data in ray.get(content[0]).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        return place

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The answers to a window, as json; cut: how many texts are truncated; error: what is wrong, in words."""
        from gossamer.finite import dumps

        rows = [(text, pair) for text, pair in json.loads(row["rows"])]
        try:
            groups = read(self.model, rows)
            said = told(self.model, groups, self.batch_size)
        except ValueError as error:
            return {"number": row["number"], "said": "", "cut": 0, "error": str(error) or "ValueError"}
        cut = sum(one.cut for reads, _, _ in groups for one in reads)
        return {"number": row["number"], "said": dumps(said), "cut": cut, "error": ""}


def _is(place: Path, known: str) -> bool:
    with suppress(OSError):
        return place.is_dir() and origin(place) == known
    return False


def _files(place: Path) -> list[Path]:
    return [file for file in sorted(place.rglob("*")) if file.is_file()]


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The module ray, with a cluster; one that was connected before stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what dies is started anew, and no news
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ImportError(f"--ray needs Ray Data, which is not installed; type: {install('ray')}") from error
    ours = not ray.is_initialized()
    if ours:
        alone: Any = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
        try:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConnectionError(
                f"no Ray cluster at '{address}' ({' '.join(str(error).split())[:200]}); start one with: ray start "
                "--head, or type --ray local"
            ) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _reach(address: str) -> None:
    """OSError where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _quietly(ray: Any) -> Iterator[None]:
    """Ray Data without bars and news, a block for every window, and waiting as long as a pipe is silent."""
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "target_max_block_size": 1, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    log = logging.getLogger("ray.data")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        for name in before:
            setattr(context, name, wanted[name])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # it counts one task's windows
            yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
