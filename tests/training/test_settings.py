"""Preset < file < --set < named options, and errors that help."""

from pathlib import Path

import pytest

from svq.errors import ConfigError
from svq.tokenizer.config import FSQConfig, KMeansConfig, TokenizerSettings, VQConfig
from svq.tokenizer.presets import PRESETS, nano
from svq.training.device import start_engine
from svq.training.settings import preset_named, resolve


def test_the_later_word_counts(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  batch_size: 5\n  seed: 1\n  images: 1\n")
    settings = resolve(nano(), file, ["train.seed=2", "train.images=2"], {"train.images": 3, "train.batch_size": None})
    assert (settings.train.batch_size, settings.train.seed, settings.train.images) == (5, 2, 3)
    assert settings.model == nano().model


def test_a_file_may_name_keys_as_the_command_line_does(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model.quantizer.codebook_size: 64\ntrain:\n  seed: 1\nmodel.quantizer.kind: vq\ntrain.images: 3\n")
    settings = resolve(nano(), file)
    assert settings.model.quantizer == VQConfig(codebook_size=64)
    assert (settings.train.seed, settings.train.images) == (1, 3)


def test_numbers_without_a_point_are_numbers() -> None:
    assert resolve(nano(), assignments=["train.optimizer.learning_rate=1e-3"]).train.optimizer.learning_rate == 1e-3


def test_another_quantizer_begins_with_its_own_defaults() -> None:
    assert isinstance(nano().model.quantizer, KMeansConfig)
    settings = resolve(nano(), assignments=["model.quantizer.kind=vq", "model.quantizer.codebook_size=64"])
    assert settings.model.quantizer == VQConfig(codebook_size=64)
    assert resolve(nano(), assignments=["model.quantizer.kind=fsq"]).model.quantizer == FSQConfig()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.batch_sise=8", "unknown key 'train.batch_sise'; did you mean 'batch_size'"),
        ("model.patch_size=7", "image_size 32 is not a multiple of patch_size 7; 28 and 35 are"),
        ("model.tokens=35", "tokens 35 is odd"),
        ("model.decoder_heads=7", "decoder_width 96 is not a multiple of decoder_heads 7"),
        ("train.batch_size=0", "train.batch_size: .* got 0"),
        ("train.flip=perhaps", "train.flip: .* got 'perhaps'"),
        ("train.batch_size", "expected KEY=VALUE"),
        ("train.batch_size=1", "batch_size 1 has no statistics"),
        ("train.continuous_share=0.95", "is more than 1"),
        ("train.optimizer.betas=[0.9, 1.5]", "train.optimizer.betas.1: .* got 1.5"),
        ("train.seed=20251124172600", "train.seed: "),
        ("train.seed=2020-13-45", "train.seed=2020-13-45: not a value"),
        ("train.shard=true", "Muon works on whole matrices; with shard, set optimizer.name=adamw"),
        (
            "model.quantizer={kind: fsq, levels: [8, 2]}",
            "model.quantizer.levels.1: .* greater than or equal to 3, got 2",
        ),
        (
            "model.quantizer={kind: fsq, levels: [8, 8, 8, 8, 8, 8, 8]}",
            r"model.quantizer: levels \(8, .*\) make 2,097,152 codes; 262,144 or fewer fit",
        ),
        ("model.quantizer.codebook_size=1000000", "model.quantizer.codebook_size: .* less than or equal to 262144"),
        ("model.quantizer.levels=[8, 5]", "unknown key 'model.quantizer.levels'; known: codebook_size, dim"),
    ],
)
def test_a_mistake_is_named_in_one_line(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        resolve(nano(), assignments=[assignment])
    assert "\n" not in str(error.value)


def test_what_sharding_cannot_do_is_said() -> None:
    with pytest.raises(ConfigError, match="shard and a discriminator do not go together"):
        resolve(PRESETS["seed"](), assignments=["train.shard=true", "train.critic_weight=0.1"])
    with pytest.raises(ConfigError, match="with shard, give a number"):
        resolve(PRESETS["seed"](), assignments=["train.shard=true", "train.micro_batch=auto"])
    with pytest.raises(ConfigError, match="start several"):
        start_engine(resolve(PRESETS["seed"](), assignments=["train.shard=true"]).train)


def test_the_order_of_assignments_does_not_matter() -> None:
    words = ["model.quantizer.codebook_size=64", "model.quantizer.kind=vq"]
    assert resolve(nano(), assignments=words) == resolve(nano(), assignments=words[::-1])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        resolve(nano(), tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml cannot be read"):
        resolve(nano(), tmp_path / "binary.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        resolve(nano(), tmp_path / "list.yaml")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'nanno'; did you mean 'nano'"):
        preset_named(PRESETS, "nanno")


def test_settings_survive_json() -> None:
    for preset in PRESETS.values():
        settings = preset()
        assert TokenizerSettings.model_validate_json(settings.model_dump_json()) == settings
