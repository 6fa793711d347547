import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.carbon import ALSO, GRIDS, SOURCES, emissions, from_pounds_per_mwh, grid, mix, ml_co2

amounts = st.floats(0, 1e6)
regions = st.sampled_from([one.code for one in GRIDS])


@given(amounts, st.floats(0, 1e3), regions)
def test_emissions_are_linear_in_the_energy(kwh, factor, region):
    once = emissions(kwh, region).grams
    assert emissions(kwh * factor, region).grams == pytest.approx(once * factor)


@given(amounts, st.floats(0, 1e3), st.floats(0, 1e3), st.floats(1, 3))
def test_emissions_are_linear_in_the_intensity_and_in_the_pue(kwh, grams, factor, pue):
    once = emissions(kwh, grams_per_kwh=grams)
    assert emissions(kwh, grams_per_kwh=grams * factor).grams == pytest.approx(once.grams * factor)
    assert emissions(kwh, pue=pue, grams_per_kwh=grams).grams == pytest.approx(once.grams * pue)


def test_the_result_says_what_it_was_worked_out_from():
    assert asdict(emissions(2, "germany", pue=1.5)) == {
        "grams": 2 * 1.5 * grid("DEU").grams_per_kwh,
        "kwh": 2,
        "pue": 1.5,
        "grams_per_kwh": grid("DEU").grams_per_kwh,
        "region": "DEU",
        "year": 2023,
    }
    assert emissions(1, "my roof", grams_per_kwh=48).year is None


def test_the_world_is_475():
    assert emissions(1).grams == 475 and emissions(1).year == 2018


@pytest.mark.parametrize("name", ["FRA", "fr", " France ", "fRA"])
def test_a_region_goes_by_code_or_name(name):
    assert grid(name).code == "FRA"


def test_common_other_names_are_understood():
    assert {grid(name).code for name in ALSO} == {"GBR", "CZE", "KOR", "TUR", "world", "EU"}


# Ember's and the Energy Institute's averages of 2023, to the gram, read apart from the table.
@pytest.mark.parametrize(
    ("code", "grams"),
    [
        *(("AUS", 549), ("AUT", 111), ("BEL", 138), ("BRA", 98), ("CAN", 170), ("CHL", 291), ("CHN", 582)),
        *(("DEU", 381), ("DNK", 152), ("FIN", 79), ("FRA", 56), ("GRC", 337), ("HUN", 204), ("IND", 713)),
        *(("IRL", 291), ("NOR", 30)),
    ],
)
def test_the_table_is_the_published_average_rounded(code, grams):
    assert grid(code).grams_per_kwh == pytest.approx(grams, abs=2.5)
    assert grid(code).year == 2023


def test_the_table_is_sound():
    codes = [one.code for one in GRIDS] + [one.short for one in GRIDS[2:]] + [one.name for one in GRIDS]
    assert len({code.casefold() for code in codes}) == len(codes) - 1  # "world" is code and name
    assert len(GRIDS) >= 60
    for one in GRIDS[2:]:
        assert len(one.code) == 3 and len(one.short) == 2 and one.code.isupper() and one.short.isupper()
        assert 20 <= one.grams_per_kwh <= 1000 and 2022 <= one.year <= 2023
        assert one.grams_per_kwh % (5 if one.grams_per_kwh >= 100 else 1) == 0


def test_an_unknown_region_is_told_what_looks_like_it():
    with pytest.raises(ValueError, match=r"region 'Germny': expected DEU \(Germany\)"):
        grid("Germny")
    with pytest.raises(ValueError, match=r'ISO country code such as DEU or US, "world" \(475 g/kWh\), or grams_per'):
        emissions(1, "!!")


def test_a_mix_is_weighted():
    # the worked example of CodeCarbon's methodology, which is 731.59 kg to the MWh
    assert mix({"coal": 0.25, "oil": 0.35, "gas": 0.26, "nuclear": 0.14}) == pytest.approx(731.59)
    assert mix({"wind": 1}) == 26


@given(st.lists(st.floats(0.01, 1), min_size=8, max_size=8))
def test_a_mix_lies_between_its_sources(weights):
    shares = {name: weight / sum(weights) for name, weight in zip(SOURCES, weights, strict=True)}
    assert 26 <= mix(shares) <= 995


def test_a_mix_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"sum to 0\.9: expected none below 0 and a sum of 1"):
        mix({"coal": 0.4, "gas": 0.5})
    with pytest.raises(ValueError, match="expected none below 0"):
        mix({"coal": 1.5, "gas": -0.5})
    with pytest.raises(ValueError, match="no carbon intensity for peat: expected coal, oil"):
        mix({"peat": 1})
    with pytest.raises(ValueError, match="sum of 1"):
        mix({})


def test_pounds_per_megawatt_hour():
    # CodeCarbon: lb/MWh x 0.00045359237 = kg/kWh
    assert from_pounds_per_mwh(1000) == pytest.approx(1000 * 0.00045359237 * 1000)
    assert from_pounds_per_mwh(0) == 0


def test_the_ml_co2_calculator():
    found = ml_co2(300, 100, offset_percent=50)  # a V100 for 100 hours
    assert (found.kwh, found.kg, found.offset_kg) == pytest.approx((30, 12.96, 6.48))
    assert ml_co2(250, 8, grams_per_kwh=475).kg == pytest.approx(0.95)


@given(st.floats(0, 1e4), st.floats(0, 1e4), amounts)
def test_the_ml_co2_calculator_agrees_with_emissions(watts, hours, grams):
    found = ml_co2(watts, hours, grams)
    assert found.kg == pytest.approx(emissions(found.kwh, grams_per_kwh=grams).grams / 1000)


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="kwh=-1: expected a number of at least 0"):
        emissions(-1)
    with pytest.raises(ValueError, match="kwh=nan"):
        emissions(math.nan)
    with pytest.raises(ValueError, match=r"pue=0.5: expected at least 1 \(1 for the machine alone\)"):
        emissions(1, pue=0.5)
    with pytest.raises(ValueError, match="grams_per_kwh=inf"):
        emissions(1, grams_per_kwh=math.inf)
    with pytest.raises(ValueError, match="offset_percent=101: expected 0 to 100"):
        ml_co2(1, 1, offset_percent=101)
    with pytest.raises(ValueError, match="watts=-5"):
        ml_co2(-5, 1)
