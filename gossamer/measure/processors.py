"""What a processor draws where nothing counts it: a model, and the numbers it takes.

    processor joules = CPU seconds of this process x TDP / hardware threads that share the TDP

A straight line: a thread that computes draws its share of the thermal design power, one that waits draws nothing.  It
understates few busy threads (they clock higher than all together, and the package has a floor), overstates light work,
and knows nothing of other processes, nor of child processes still running.  Take it to be right within a factor of
two, and good for comparing two models on one machine, as CPU time is.  In a virtual machine it takes the threads of the
whole processor, not those that were rented.

Memory is not estimated: rules of so many watts per GiB that a process holds (such as CodeCarbon's) would charge a model
with all others that lie in the same process, its baseline among them.  Who knows the watts gives them.

The table was written down from memory of the makers' data sheets, to the watt and thread as they print them, and not
generated from them: look a processor up before its joules are quoted.  Rows marked * are not printed anywhere.  The 4 W
of a thread of an unknown processor is a round number.
"""

import re
from dataclasses import dataclass
from typing import Literal

UNKNOWN_WATTS_PER_THREAD = 4.0  # CodeCarbon's for a processor that it does not know


@dataclass(frozen=True)
class Processor:
    """One row.

    name: a regular expression for the model name.  watts: its TDP.  threads: all its hardware threads.  typical: the
    name is that of a whole family, the figures those of a common member.
    """

    name: str
    watts: float
    threads: int
    typical: bool = False


# As of 2024: the makers' TDPs (Intel's "processor base power" from its 12th generation on) and threads.
# Those marked * are a cloud's own, never listed: the figures are those in common use.
# The typical ones come last, for machines that hide the number.
PROCESSORS = (
    Processor(r"Platinum 8480(\+|CL?)?", 350, 112),
    Processor(r"Platinum 8380", 270, 80),
    Processor(r"Platinum 8375C", 300, 64),  # *
    Processor(r"Platinum 8280", 205, 56),
    Processor(r"Platinum 8272CL", 195, 52),  # *
    Processor(r"Platinum 8259CL", 210, 48),  # *
    Processor(r"Platinum 8175M", 240, 48),  # *
    Processor(r"Platinum 8168", 205, 48),
    Processor(r"Gold 6348", 235, 56),
    Processor(r"Gold 6338", 205, 64),
    Processor(r"Gold 6[12]48", 150, 40),
    Processor(r"Gold 6230", 125, 40),
    Processor(r"Gold 6226R", 150, 32),
    Processor(r"Gold 6130", 125, 32),
    Processor(r"Silver 4310", 120, 24),
    Processor(r"Silver 4214", 85, 24),
    Processor(r"Silver 4210", 85, 20),
    Processor(r"E5-2698 v4", 135, 40),
    Processor(r"E5-2690 v4", 135, 28),
    Processor(r"E5-2686 v4", 145, 36),  # *
    Processor(r"E5-2680 v4", 120, 28),
    Processor(r"E5-2670 v3", 120, 24),
    Processor(r"E5-2650 v4", 105, 24),
    Processor(r"EPYC 9754", 360, 256),
    Processor(r"EPYC 9654P?", 360, 192),
    Processor(r"EPYC 9554P?", 360, 128),
    Processor(r"EPYC 9454P?", 290, 96),
    Processor(r"EPYC 7763", 280, 128),
    Processor(r"EPYC 7(713P?|742)", 225, 128),
    Processor(r"EPYC 7R13", 225, 96),  # *
    Processor(r"EPYC 7543P?", 225, 64),
    Processor(r"EPYC 7(502P?|551P?|601)", 180, 64),
    Processor(r"EPYC 7452", 155, 64),
    Processor(r"EPYC 7402P?", 180, 48),
    Processor(r"EPYC 7302P?", 155, 32),
    Processor(r"Threadripper PRO 5995WX", 280, 128),
    Processor(r"Threadripper 3970X", 280, 64),
    Processor(r"Ryzen 9 [79]950X", 170, 32),
    Processor(r"Ryzen 9 7900X", 170, 24),
    Processor(r"Ryzen 9 [35]950X", 105, 32),
    Processor(r"Ryzen 9 [35]900X", 105, 24),
    Processor(r"Ryzen 7 (5800|7700)X", 105, 16),
    Processor(r"Ryzen 7 3700X", 65, 16),
    Processor(r"Ryzen 5 (3600|5600X)", 65, 12),
    Processor(r"Ryzen 7 [45]800H", 45, 16),
    Processor(r"Ryzen 7 5700U", 15, 16),
    Processor(r"Ryzen 7 7840U", 28, 16),
    Processor(r"i9-1[34]900KF?", 125, 32),
    Processor(r"i9-12900KF?", 125, 24),
    Processor(r"i9-10900KF?", 125, 20),
    Processor(r"i9-9900KF?", 95, 16),
    Processor(r"i7-13700KF?", 125, 24),
    Processor(r"i7-12700KF?", 125, 20),
    Processor(r"i7-12700H", 45, 20),
    Processor(r"i7-11800H", 45, 16),
    Processor(r"i7-10700KF?", 125, 16),
    Processor(r"i7-9700KF?", 95, 8),
    Processor(r"i7-8700K", 95, 12),
    Processor(r"i7-(8|9|10)750H", 45, 12),
    Processor(r"i[57]-11[36]5G7", 28, 8),
    Processor(r"i7-(8550|8565|10510)U", 15, 8),
    Processor(r"i7-[67]700K", 91, 8),
    Processor(r"AMD EPYC", 225, 96, typical=True),
)


@dataclass(frozen=True)
class Assumed:
    """The numbers that an estimate took.

    cpu: the model name.  tdp_watts: shared by so many `threads`.  origin: where they are from: "given" by the user,
    "listed" in the table, "typical" of the family, or "unknown", for which 4 W a hardware thread is assumed.
    cpu_seconds: of all threads of this process.  ram_watts: of the memory, where the user gave them.
    """

    cpu: str
    tdp_watts: float
    threads: int
    origin: Literal["given", "listed", "typical", "unknown"]
    cpu_seconds: float
    ram_watts: float | None = None

    @property
    def cpu_joules(self) -> float:
        """CPU seconds x TDP / threads."""
        return self.cpu_seconds * self.tdp_watts / self.threads


def processor(name: str) -> Processor | None:
    """The first of the table whose expression is a whole word of `name`; None for one that is not in it."""
    return next((one for one in PROCESSORS if re.search(rf"\b{one.name}(?!\w)", _plain(name), re.IGNORECASE)), None)


def assume(
    cpu: str,
    cpu_seconds: float,
    here: int,
    *,
    tdp_watts: float | None = None,
    threads: int | None = None,
    ram_watts: float | None = None,
) -> Assumed:
    """The model's numbers for the processor called `cpu`.

    cpu_seconds: of this process.  here: hardware threads of this machine, which stand in where the processor's own are
    not known.  tdp_watts, threads, ram_watts: what the user knows better; the TDP is that of all processors that the
    threads belong to.
    """
    listed = processor(cpu)
    shared = threads or (here if listed is None else listed.threads)
    origin: Literal["given", "listed", "typical", "unknown"] = "given"
    if tdp_watts is None and listed is None:
        tdp_watts, origin = UNKNOWN_WATTS_PER_THREAD * shared, "unknown"
    elif tdp_watts is None and listed is not None:
        tdp_watts, origin = listed.watts, "typical" if listed.typical else "listed"
    assert tdp_watts is not None
    return Assumed(cpu, float(tdp_watts), shared, origin, cpu_seconds, ram_watts)


def _plain(name: str) -> str:
    """Without the trade marks: "Intel(R) Xeon(R) Platinum 8380 CPU" -> "Intel Xeon Platinum 8380 CPU"."""
    return " ".join(re.sub(r"\((R|TM)\)", "", name, flags=re.IGNORECASE).split())
