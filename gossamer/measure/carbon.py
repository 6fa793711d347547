"""From kilowatt-hours to grams of CO2 equivalent.

    grams = kWh x PUE x grams per kWh of the grid

Grids: yearly averages of the electricity generated in a country, life cycle, by Ember and the Energy Institute as
published by Our World in Data (CC BY 4.0), here rounded to 5 g/kWh above 100 and to 1 below; each row has its year.
The rows were written down from memory of that publication, not copied from its file: take them for right within a
tenth, and look a grid up before its grams are quoted.
The world's 475 is the International Energy Agency's (Global Energy and CO2 Status Report 2019, for 2018), which
CodeCarbon takes as well.  An average says little about an hour: the same grid differs from noon to night,
imports are not in it, nor are contracts for green power.  Give `grams_per_kwh` where you know better.

Sources: life-cycle grams of single fuels as CodeCarbon takes them (mlco2.github.io/codecarbon/methodology.html), whole
grams, from memory as well; OECD_2014, the conversion of pounds and the formulas are exact as published.
ml_co2: the calculator of "Quantifying the Carbon Emissions of Machine Learning" (Lacoste et al., 2019,
arXiv 1910.09700).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isclose, isfinite

KG_PER_POUND = 0.45359237  # exact, by definition
OECD_2014 = 432.0  # g/kWh: what the ML CO2 calculator takes for a machine of one's own
SOURCES = {  # g/kWh
    "coal": 995.0,
    "oil": 816.0,
    "gas": 743.0,
    "geothermal": 38.0,
    "hydro": 26.0,
    "nuclear": 29.0,
    "solar": 48.0,
    "wind": 26.0,
}


@dataclass(frozen=True)
class Grid:
    """code, short: ISO 3166-1, three letters and two.  grams_per_kwh: CO2 equivalent, the average of `year`."""

    code: str
    short: str
    name: str
    grams_per_kwh: float
    year: int


@dataclass(frozen=True)
class Emissions:
    """Grams of CO2 equivalent and what they were worked out from; year is None where the intensity was given."""

    grams: float
    kwh: float
    pue: float
    grams_per_kwh: float
    region: str
    year: int | None


@dataclass(frozen=True)
class Calculated:
    """What the ML CO2 calculator answers: kWh, kg of CO2 equivalent, and the kg of them that were bought off."""

    kwh: float
    kg: float
    offset_kg: float


GRIDS = (
    Grid("world", "world", "World", 475, 2018),
    Grid("EU", "EU", "European Union", 240, 2023),
    Grid("ARE", "AE", "United Arab Emirates", 560, 2022),
    Grid("ARG", "AR", "Argentina", 355, 2023),
    Grid("AUS", "AU", "Australia", 550, 2023),
    Grid("AUT", "AT", "Austria", 110, 2023),
    Grid("BEL", "BE", "Belgium", 140, 2023),
    Grid("BGD", "BD", "Bangladesh", 690, 2023),
    Grid("BGR", "BG", "Bulgaria", 335, 2023),
    Grid("BRA", "BR", "Brazil", 98, 2023),
    Grid("CAN", "CA", "Canada", 170, 2023),
    Grid("CHE", "CH", "Switzerland", 35, 2023),
    Grid("CHL", "CL", "Chile", 290, 2023),
    Grid("CHN", "CN", "China", 580, 2023),
    Grid("COL", "CO", "Colombia", 260, 2023),
    Grid("CRI", "CR", "Costa Rica", 53, 2023),
    Grid("CYP", "CY", "Cyprus", 535, 2023),
    Grid("CZE", "CZ", "Czechia", 450, 2023),
    Grid("DEU", "DE", "Germany", 380, 2023),
    Grid("DNK", "DK", "Denmark", 150, 2023),
    Grid("DZA", "DZ", "Algeria", 635, 2022),
    Grid("ECU", "EC", "Ecuador", 150, 2023),
    Grid("EGY", "EG", "Egypt", 570, 2023),
    Grid("ESP", "ES", "Spain", 175, 2023),
    Grid("EST", "EE", "Estonia", 415, 2023),
    Grid("FIN", "FI", "Finland", 79, 2023),
    Grid("FRA", "FR", "France", 56, 2023),
    Grid("GBR", "GB", "United Kingdom", 240, 2023),
    Grid("GRC", "GR", "Greece", 335, 2023),
    Grid("HKG", "HK", "Hong Kong", 700, 2022),
    Grid("HRV", "HR", "Croatia", 205, 2023),
    Grid("HUN", "HU", "Hungary", 205, 2023),
    Grid("IDN", "ID", "Indonesia", 675, 2022),
    Grid("IND", "IN", "India", 715, 2023),
    Grid("IRL", "IE", "Ireland", 290, 2023),
    Grid("ISL", "IS", "Iceland", 28, 2022),
    Grid("ISR", "IL", "Israel", 585, 2022),
    Grid("ITA", "IT", "Italy", 330, 2023),
    Grid("JPN", "JP", "Japan", 485, 2023),
    Grid("KAZ", "KZ", "Kazakhstan", 820, 2023),
    Grid("KEN", "KE", "Kenya", 70, 2023),
    Grid("KOR", "KR", "South Korea", 430, 2023),
    Grid("LTU", "LT", "Lithuania", 160, 2023),
    Grid("LUX", "LU", "Luxembourg", 105, 2023),
    Grid("LVA", "LV", "Latvia", 125, 2023),
    Grid("MAR", "MA", "Morocco", 630, 2023),
    Grid("MEX", "MX", "Mexico", 505, 2023),
    Grid("MLT", "MT", "Malta", 460, 2023),
    Grid("MYS", "MY", "Malaysia", 605, 2022),
    Grid("NGA", "NG", "Nigeria", 525, 2023),
    Grid("NLD", "NL", "Netherlands", 270, 2023),
    Grid("NOR", "NO", "Norway", 30, 2023),
    Grid("NZL", "NZ", "New Zealand", 115, 2023),
    Grid("PAK", "PK", "Pakistan", 440, 2023),
    Grid("PER", "PE", "Peru", 265, 2023),
    Grid("PHL", "PH", "Philippines", 610, 2023),
    Grid("POL", "PL", "Poland", 660, 2023),
    Grid("PRT", "PT", "Portugal", 165, 2023),
    Grid("ROU", "RO", "Romania", 240, 2023),
    Grid("SAU", "SA", "Saudi Arabia", 705, 2022),
    Grid("SGP", "SG", "Singapore", 470, 2023),
    Grid("SRB", "RS", "Serbia", 635, 2023),
    Grid("SVK", "SK", "Slovakia", 115, 2023),
    Grid("SVN", "SI", "Slovenia", 230, 2023),
    Grid("SWE", "SE", "Sweden", 41, 2023),
    Grid("THA", "TH", "Thailand", 550, 2023),
    Grid("TUN", "TN", "Tunisia", 565, 2023),
    Grid("TUR", "TR", "Turkey", 465, 2023),
    Grid("TWN", "TW", "Taiwan", 640, 2023),
    Grid("URY", "UY", "Uruguay", 130, 2023),
    Grid("USA", "US", "United States", 370, 2023),
    Grid("VNM", "VN", "Vietnam", 475, 2023),
    Grid("ZAF", "ZA", "South Africa", 710, 2023),
)
ALSO = {"uk": "GBR", "czech republic": "CZE", "korea": "KOR", "turkiye": "TUR", "earth": "world", "eu27": "EU"}


def grid(region: str) -> Grid:
    """The grid of a country, by its ISO code of two or three letters or its name; "EU"; "world".

    Raises ValueError, with those that look alike, when there is no such row.
    """
    wanted = region.strip().casefold()
    wanted = ALSO.get(wanted, wanted).casefold()
    for one in GRIDS:
        if wanted in (one.code.casefold(), one.short.casefold(), one.name.casefold()):
            return one
    spelled = {text.casefold(): one for one in GRIDS for text in (one.name, one.code, one.short)}
    near = [spelled[text] for text in get_close_matches(wanted, spelled, n=5, cutoff=0.5)]
    names = " or ".join(dict.fromkeys(f"{one.code} ({one.name})" for one in near))
    raise ValueError(
        f"no carbon intensity for the region {region!r}: expected {names or 'an ISO country code such as DEU or US'}, "
        f'"world" ({grid("world").grams_per_kwh:g} g/kWh), or grams_per_kwh=... of your own'
    )


def emissions(kwh: float, region: str = "world", *, pue: float = 1.0, grams_per_kwh: float | None = None) -> Emissions:
    """Grams of CO2 equivalent of `kwh` drawn in `region`, linear in each of its factors.

    pue: power usage effectiveness, what the data centre draws for each watt of the machine; leave it at 1 for the kwh
    of an `Energy`, which has its own in it already.  grams_per_kwh: instead of the region's average.
    Raises ValueError for a region that is not in the table, and for numbers that cannot be.
    """
    _positive("kwh", kwh)
    if not (isfinite(pue) and pue >= 1):
        raise ValueError(f"pue={pue}: expected at least 1 (1 for the machine alone)")
    if grams_per_kwh is not None:
        _positive("grams_per_kwh", grams_per_kwh)
        return Emissions(kwh * pue * grams_per_kwh, kwh, pue, grams_per_kwh, region, None)
    found = grid(region)
    return Emissions(kwh * pue * found.grams_per_kwh, kwh, pue, found.grams_per_kwh, found.code, found.year)


def mix(shares: Mapping[str, float]) -> float:
    """g/kWh of electricity made from `SOURCES` in these shares, which sum to 1.

    Raises ValueError for an unknown source, and for shares that are negative or do not sum to 1.
    """
    unknown = sorted(set(shares) - set(SOURCES))
    if unknown:
        raise ValueError(f"no carbon intensity for {', '.join(unknown)}: expected {', '.join(SOURCES)}")
    if any(share < 0 for share in shares.values()) or not isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ValueError(f"shares {dict(shares)} sum to {sum(shares.values()):g}: expected none below 0 and a sum of 1")
    return sum(share * SOURCES[source] for source, share in shares.items())


def from_pounds_per_mwh(pounds: float) -> float:
    """The lb/MWh that the US EPA publishes (eGRID) -> g/kWh; the number is that of kg/MWh."""
    return pounds * KG_PER_POUND


def ml_co2(watts: float, hours: float, grams_per_kwh: float = OECD_2014, offset_percent: float = 0.0) -> Calculated:
    """The ML CO2 calculator: kWh = watts x hours / 1000, kg = kWh x g/kWh / 1000, offset = kg x percent / 100.

    watts: the thermal design power of the hardware; all of it, all the time.  No PUE.  By default the average of the
    OECD of 2014, as the calculator takes for a machine of one's own.
    Raises ValueError for numbers that cannot be.
    """
    for name, value in (("watts", watts), ("hours", hours), ("grams_per_kwh", grams_per_kwh)):
        _positive(name, value)
    if not 0 <= offset_percent <= 100:
        raise ValueError(f"offset_percent={offset_percent}: expected 0 to 100")
    kwh = watts * hours / 1000
    kg = kwh * grams_per_kwh / 1000
    return Calculated(kwh, kg, kg * offset_percent / 100)


def _positive(name: str, value: float) -> None:
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value}: expected a number of at least 0")
