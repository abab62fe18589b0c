"""Settings: presets, changes, TOML in and out, and errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udq.config import CODEWORDS, PRESETS, SUBSPACES, IndexConfig, ProposalTraining, preset
from udq.errors import InputError


def test_default_is_the_default_preset():
    assert preset("default") == IndexConfig()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_toml(name, tmp_path):
    (tmp_path / "settings.toml").write_text(preset(name).to_toml())

    assert IndexConfig.from_toml(tmp_path / "settings.toml", IndexConfig()) == preset(name)


@given(
    subspaces=st.sampled_from(SUBSPACES),
    codewords=st.sampled_from(CODEWORDS),
    p=st.floats(1, 100),
    shorter=st.integers(32, 448),
    whiten=st.booleans(),
)
def test_changes_affect_only_the_named_fields(subspaces, codewords, p, shorter, whiten):
    changes = {
        "quantizer": {"subspaces": subspaces, "codewords": codewords, "whiten": whiten},
        "features": {"p": p},
        "images": {"shorter": shorter},
    }
    changed = IndexConfig().replace(changes).to_dict()

    expected = IndexConfig().to_dict()
    for table, values in changes.items():
        expected[table] |= values
    assert changed == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantiser": {}}, "unknown table [quantiser]; expected one of images, features, keypoints, sample"),
        ({"images": 3}, "expected [images] to be a table, found 3"),
        ({"quantizer": {"m": 8}}, "unknown key 'm' in [quantizer]; expected one of dimensions"),
        ({"sample": {"seed": True}}, "sample.seed: expected int, found True"),
        ({"sample": {"seed": 1.5}}, "sample.seed: expected int, found 1.5"),
        ({"sample": {"seed": -1}}, "expected 0 or more, found -1"),
        ({"quantizer": {"subspaces": 3}}, "expected one of 2, 4, 8, 16, found 3"),
        ({"quantizer": {"codewords": 1024}}, "found 1024"),
        ({"quantizer": {"dimensions": 4}}, "expected 8 or more, found 4"),
        ({"features": {"p": 0.5}}, "expected 1 or more, found 0.5"),
        ({"features": {"pooling": "max"}}, "features.pooling: expected one of gem, roi, found 'max'"),
        ({"features": {"p": float("nan")}}, "expected 1 or more, found nan"),
        ({"training": {"refine": "best"}}, "training.refine: expected one of none, bfr, pbr, cbr, found 'best'"),
        ({"training": {"iterations": -1}}, "training.iterations: expected 0 or more, found -1"),
        ({"training": {"batch": 0}}, "training.batch: expected 1 or more, found 0"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: expected 0 or more, found nan"),
        ({"training": {"share": 1.5}}, "training.share: expected more than 0 and at most 1, found 1.5"),
        ({"images": {"shorter": 123456789}}, "images.longer: expected 123456789 or more, found 448"),
        ({"images": {"shorter": 600}}, "images.longer: expected 600 or more, found 448"),
    ],
)
def test_an_impossible_setting_is_refused_in_one_line(changes, says):
    with pytest.raises(InputError) as refused:
        IndexConfig().replace(changes)

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_stored_before_a_key_existed_take_its_default():
    stored = preset("paper").replace({"features": {"pooling": "gem"}}).to_dict()
    del stored["features"]["pooling"]

    assert IndexConfig().replace(stored).features.pooling == "gem"


@pytest.mark.parametrize("data", [b"= 3", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(data, tmp_path):
    (tmp_path / "settings.toml").write_bytes(data)

    with pytest.raises(InputError, match="expected a TOML file"):
        IndexConfig.from_toml(tmp_path / "settings.toml", IndexConfig())


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(InputError, match="expected one of default, fast, fine, paper, paper-resnet101"):
        preset("best")


@pytest.mark.parametrize(
    ("own", "supervised"), [((2, 64), (8, 256)), ((4, 512), (8, 512)), ((16, 16), (16, 256)), ((8, 256), (8, 256))]
)
def test_training_is_supervised_by_no_coarser_codes_than_the_default(own, supervised):
    config = IndexConfig().replace({"quantizer": {"subspaces": own[0], "codewords": own[1]}})
    supervision = config.supervision()
    literal = config.replace({"training": {"fine": False}})

    assert (supervision.subspaces, supervision.codewords) == supervised
    assert literal.supervision() == config.quantizer
    assert literal.share() == 0.5
    assert config.share() == 0.5 * min(1, own[0] * (own[1] - 1).bit_length() / 64)
    assert IndexConfig().replace({"quantizer": {"subspaces": 4, "dimensions": 4}}).supervision().dimensions == 8


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("features", "p", float("inf")),
        ("features", "p", 10**400),
        ("training", "learning_rate", float("inf")),
        ("training", "sharpness", -float("inf")),
        ("sample", "seed", 2**31),
        ("sample", "seed", -1),
        ("images", "longer", 10**30),
    ],
)
def test_numbers_are_finite_and_fit_32_bits(table, key, value):
    with pytest.raises(InputError, match=rf"^{table}.{key}: expected "):
        IndexConfig().replace({table: {key: value}})
    assert IndexConfig().replace({"sample": {"seed": 2**31 - 1}}).sample.seed == 2**31 - 1


def test_the_seed_of_a_proposal_network_fits_32_bits():
    with pytest.raises(InputError, match=r"^training.seed: expected a number of at most 2147483647, found 2147483648$"):
        ProposalTraining(seed=2**31)


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "a = " + "{b=" * 20_000, "a = 1" + "0" * 6000])
def test_toml_that_exceeds_the_limits_of_python_is_an_error_of_one_line(tmp_path, text):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(InputError, match="expected a TOML file") as caught:
        IndexConfig.from_toml(file, IndexConfig())
    assert "\n" not in str(caught.value)
