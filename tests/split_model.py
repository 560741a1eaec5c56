"""A GGUF file as parts, named and numbered as llama.cpp's gguf-split does."""

from __future__ import annotations

from pathlib import Path

import gguf


def split(model: Path, directory: Path, stem: str, n_tensors: int) -> list[Path]:
    """Writes `stem`-00001-of-0000N.gguf and so on, with `n_tensors` in each part."""
    reader = gguf.GGUFReader(model)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(directory / f"{stem}.gguf", arch, split_max_tensors=n_tensors)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(directory.glob(f"{stem}-*.gguf"))
