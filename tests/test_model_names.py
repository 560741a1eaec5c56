"""What people call a model of the hub, and which files of a repository they mean."""

from __future__ import annotations

import pytest

from asymkv_gguf.errors import HubError
from asymkv_gguf.models import ModelName
from asymkv_gguf.models.selection import Model, choose, models_of, quant_of


def models(*paths: str) -> list[Model[str]]:
    return models_of((path, 1 << 20, path) for path in paths)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/model-GGUF", ModelName("org/model-GGUF")),
        ("org/model:q8_0", ModelName("org/model", quant="q8_0")),
        (" org/model:Q8_0 ", ModelName("org/model", quant="Q8_0")),
        ("org/model:dir/model-f16.gguf", ModelName("org/model", file="dir/model-f16.gguf")),
        ("hf.co/org/model:Q4_0", ModelName("org/model", quant="Q4_0")),
        ("https://huggingface.co/org/model", ModelName("org/model")),
    ],
)
def test_a_name_is_a_repository_and_a_quant_or_a_file(text: str, name: ModelName) -> None:
    assert ModelName.parse(text) == name


def test_a_file_can_be_named_apart() -> None:
    assert ModelName.parse("org/model", "model-f16.gguf") == ModelName("org/model", file="model-f16.gguf")


@pytest.mark.parametrize(
    "text", ["", "model", "org/", "/model", "a/b/c", "org/model:", "org/mo del", "org/..", "https://x.y/org/m"]
)
def test_what_is_no_name_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="names no model of the hub; give USER/REPO or USER/REPO:QUANT, such as"):
        ModelName.parse(text)


def test_a_quant_and_a_file_are_too_much() -> None:
    with pytest.raises(ValueError, match="'org/model:Q8_0' names a quant, and m.gguf a file; give one of them"):
        ModelName.parse("org/model:Q8_0", "m.gguf")


def test_a_file_that_is_no_gguf_is_refused() -> None:
    with pytest.raises(ValueError, match="'m.safetensors' is not the name of a GGUF file; it has to end in .gguf"):
        ModelName.parse("org/model", "m.safetensors")


@pytest.mark.parametrize(
    ("stem", "quant"),
    [
        ("Llama-3.1-8B-Instruct-Q4_K_M", "Q4_K_M"),
        ("llama-2-7b.q5_0", "Q5_0"),
        ("model-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("model-IQ2_XXS", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("model-f16", "F16"),
        ("model-BF16", "BF16"),
        ("model-TQ1_0", "TQ1_0"),
        ("model-Q4_0_4_4", "Q4_0_4_4"),
        ("model.Q6_K.imatrix-v2", "Q6_K"),
        ("Q8_0/weights", "Q8_0"),
        ("Qwen3-4B", "Qwen3-4B"),
    ],
)
def test_the_quant_is_read_from_the_files_name(stem: str, quant: str) -> None:
    assert quant_of(stem) == quant


def test_the_default_is_q4_k_m_and_case_does_not_matter() -> None:
    found = models("m-Q8_0.gguf", "m-q4_k_m.gguf", "m-Q4_K_S.gguf")
    assert choose(ModelName("org/m"), found, "org/m").path == "m-q4_k_m.gguf"
    assert choose(ModelName("org/m", quant="q8_0"), found, "org/m").path == "m-Q8_0.gguf"


def test_the_only_model_needs_no_quant() -> None:
    found = models("mmproj-m-f16.gguf", "m-mxfp4.gguf", "imatrix.gguf", "config.json")
    assert choose(ModelName("org/m"), found, "org/m").path == "m-mxfp4.gguf"


def test_a_publishers_variant_is_found_by_its_quant_unless_the_plain_one_is_there() -> None:
    assert choose(ModelName("o/m", quant="Q4_K_XL"), models("m-UD-Q4_K_XL.gguf", "m-F16.gguf"), "o/m").quant == "UD-Q4_K_XL"
    assert choose(ModelName("o/m", quant="Q2_K"), models("m-UD-Q2_K.gguf", "m-Q2_K.gguf"), "o/m").quant == "Q2_K"


def test_the_parts_of_a_split_are_one_model_in_their_order() -> None:
    found = models("Q8_0/m-Q8_0-00002-of-00002.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf", "m-Q4_0.gguf")
    whole = choose(ModelName("org/m", quant="Q8_0"), found, "org/m")
    assert whole.files == ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf")
    assert whole.size == 2 << 20
    by_part = choose(ModelName("org/m", file="m-Q8_0-00002-of-00002.gguf"), found, "org/m")
    assert by_part == whole


def test_a_file_is_found_with_and_without_its_directory() -> None:
    found = models("small/m.gguf", "large/m-xl.gguf")
    assert choose(ModelName("org/m", file="small/m.gguf"), found, "org/m").path == "small/m.gguf"
    assert choose(ModelName("org/m", file="m-xl.gguf"), found, "org/m").path == "large/m-xl.gguf"


def test_a_missing_quant_lists_those_that_exist() -> None:
    sentence = r"^org/m has no Q4_K_M; it has F16 \(1.0 MiB\), Q8_0 \(1.0 MiB\); name one, as in org/m:F16$"
    with pytest.raises(HubError, match=sentence):
        choose(ModelName("org/m"), models("m-Q8_0.gguf", "m-F16.gguf"), "org/m")


def test_several_models_of_one_quant_have_to_be_told_apart_by_file() -> None:
    sentence = r"^org/m holds several models for org/m:Q8_0: a-Q8_0.gguf, b-Q8_0.gguf; name one, as in org/m:a-Q8_0.gguf$"
    with pytest.raises(HubError, match=sentence):
        choose(ModelName("org/m", quant="Q8_0"), models("b-Q8_0.gguf", "a-Q8_0.gguf"), "org/m")


def test_a_split_with_a_part_missing_is_not_chosen() -> None:
    with pytest.raises(HubError, match=r"^org/m has only 1 of the 3 parts of m-Q8_0-00002-of-00003.gguf$"):
        choose(ModelName("org/m", quant="Q8_0"), models("m-Q8_0-00002-of-00003.gguf"), "org/m")
