"""Dummy models with random weights, of any architecture that llama.cpp knows.

Only the hyperparameters are ours: llama.cpp, which is asked to make a model from them without a file
(llama_model_init_from_user), tells the tensors that it wants, and those are written with random numbers.
"""

from __future__ import annotations

import ctypes
import zlib
from pathlib import Path
from typing import Any

import gguf
import llama_cpp._logger
import numpy as np

N_VOCAB = 259  # three special tokens and all bytes
N_CTX = 2048
WINDOW = 64  # of layers with a sliding window


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# these have no variant without experts in llama.cpp
_EXPERTS = _names("""
    afmoe arctic bailingmoe bailingmoe2 bailingmoe3 cohere2moe dbrx deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4
    dots1 dots3note ernie4_5-moe exaone-moe glm-dsa glm4moe glm5-next gpt-oss granitemoe grok grovemoe hunyuan-moe hy_v3 hy_v4
    kimi-k3 kimi-linear laguna lfm2moe llada-moe llama4 maple mellum mimo2 minimax-01 minimax-m2 minimax-m3 mistral4
    nemotron_h_moe olmoe paddleocr phimoe qwen2moe qwen35moe qwen3moe qwen3next qwen3vlmoe qwen4exp rnd1 smallthinker step35
""")
# attention of two parts, from one compressed vector (MLA)
_LATENT = _names("bailingmoe3 deepseek2 deepseek32 dots3note glm-dsa glm5-next hy_v4 kimi-k3 kimi-linear mistral4")
# hybrids that tell their attention layers by the number of heads
_HEADS_PER_LAYER = _names(
    "bailingmoe3 glm5-next granitehybrid jamba kimi-k3 kimi-linear lfm2 lfm2moe nemotron_h nemotron_h_moe plamo2"
)
# sliding windows told layer by layer
_WINDOW_PER_LAYER = _names(
    "cohere2moe dflash dots3note gemma4 gemma4-assistant granite_swa maple mimo2 muse-glimmer spark2_5 step35"
)
# positions of several components
_SECTIONS = _names("hunyuan_vl paddleocr qwen2vl qwen35 qwen35moe qwen3tts qwen3vl qwen3vlmoe qwen4exp")
# these read their text at once
_ENCODERS = _names(
    "bert eurobert jina-bert-v2 jina-bert-v3 llama-embed modern-bert neo-bert nomic-bert nomic-bert-moe t5encoder"
)

_N_LAYER = {
    "deepseek4": 4, "eagle3": 1, "gemma3n": 22, "gemma4": 5, "hrm_text": 6, "llama4": 4, "nemotron_h": 3, "nemotron_h_moe": 3,
}  # fmt: skip
_N_HEAD = {"deepseek4": 8, "gemma3n": 1, "qwen3": 4, "muse-glimmer": 4, "afmoe": 4, **dict.fromkeys(_LATENT, 1)}
_N_HEAD_KV = {"deepseek4": 1, "qwen3": 2, "muse-glimmer": 2, "afmoe": 2}
_N_EMBD = {"deepseek4": 512, "gemma3n": 64, "gemma4": 128, "step35": 160, "laguna": 160, **dict.fromkeys(_LATENT, 128)}


def hyperparameters(arch: str) -> dict[str, Any]:
    """What llama.cpp reads of a model file, by name. A name that an architecture does not know is not read."""
    n_layer, n_head = _N_LAYER.get(arch, 2), _N_HEAD.get(arch, 2)
    n_head_kv, n_embd = _N_HEAD_KV.get(arch, n_head), _N_EMBD.get(arch, 256)
    head, n_ff = n_embd // n_head, 3 * n_embd // 2
    heads: int | list[int] = [0 if layer == 1 else n_head for layer in range(n_layer)]
    if arch not in _HEADS_PER_LAYER:
        heads = n_head
    every_other = [layer % 2 for layer in range(n_layer)]
    values: dict[str, Any] = {
        "vocab_size": N_VOCAB,
        "context_length": N_CTX,
        "embedding_length": n_embd,
        "features_length": n_embd,
        "block_count": n_layer,
        "leading_dense_block_count": 1,
        "feed_forward_length": [0, 0, n_ff] if arch.startswith("nemotron_h") else n_ff,
        "use_parallel_residual": False,
        "logit_scale": 1.0,
        "time_mix_extra_dim": 64,
        "time_decay_extra_dim": 128,
        "full_attention_interval": 2,
        "residual_scale": 3.5,
        "token_shift_count": 1 if arch in ("rwkv6qwen2", "arwkv7") else 2,
        "attention.head_count": n_head if arch == "glm5-next" else heads,
        "attention.head_count_kv": heads if isinstance(heads, list) else n_head_kv,
        "attention.max_alibi_bias": 8.0,
        "attention.clamp_kqv": 1.0,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5,
        "attention.group_norm_groups": 8,
        "attention.q_lora_rank": 64 if arch == "deepseek4" else 512,
        "attention.kv_lora_rank": 512,
        "attention.relative_buckets_count": 8,
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": every_other if arch in _WINDOW_PER_LAYER else 2,
        "attention.indexer.head_count": n_head if arch == "minimax-m3" else 64,
        "attention.indexer.key_length": head if arch == "qwen4exp" else 128,
        "attention.indexer.top_k": 131072,
        "attention.indexer.block_size": 4,
        "attention.indexer.kpool": 4,
        "attention.indexer.kpool_select_tail": True,
        "attention.indexer.local_blocks": 1,
        "posnet.embedding_length": n_embd,
        "posnet.block_count": n_layer,
        "convnext.embedding_length": n_embd,
        "convnext.block_count": n_layer,
        "xielu.alpha_n": 1.0,
        "xielu.alpha_p": 1.0,
        "xielu.beta": 1.0,
        "xielu.eps": 1e-7,
        "ssm.inner_size": 256 if arch in ("qwen3next", "qwen35", "qwen35moe", "qwen4exp") else 2 * n_embd,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.time_step_rank": n_head,
        "ssm.group_count": 0 if arch == "plamo2" else 2,
        "kda.head_dim": 128,
        "kda.safe_gate": True,
        "kda.gate_lower_bound": -5.0,
        "wkv.head_size": head,
        "shortconv.l_cache": 3,
        "attn_res.block_size": 12,
        "activation.situ_beta": 4.0,
        "activation.situ_linear_beta": 25.0,
    }
    values |= _of_experts(n_ff) if arch in _EXPERTS else {}
    values |= _of_latent(arch, every_other) if arch in _LATENT else {}
    values |= {"rope.dimension_sections": [head // 8] * 4} if arch in _SECTIONS else {}
    values |= {"attention.causal": False} if arch in _ENCODERS else {}
    values |= _of_one(arch, n_layer, n_embd, head)
    return values


def _of_experts(n_ff: int) -> dict[str, Any]:
    return {
        "expert_feed_forward_length": n_ff,
        "expert_shared_feed_forward_length": n_ff // 2,
        "expert_latent_length": n_ff,
        "interleave_moe_layer_step": 2,
        "expert_count": 2,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "expert_group_scale": 1.0,
        "experts_per_group": 1,
    }


def _of_latent(arch: str, every_other: list[int]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "attention.key_length": 512 if arch == "glm5-next" else 576,
        "attention.value_length": 512,
        "rope.dimension_count": 0 if arch == "glm5-next" else 64,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    if arch in ("dots3note", "hy_v4"):
        values["attention.indexer.types"] = [1 - other for other in every_other]
    if arch == "dots3note":
        same = ("key_length", "value_length", "key_length_mla", "value_length_mla")
        values |= {f"attention.{name}_swa": values[f"attention.{name}"] for name in same}
        values |= {"attention.kv_lora_rank_swa": 512, "rope.freq_base_swa": 10000.0}
    return values


def _of_one(arch: str, n_layer: int, n_embd: int, head: int) -> dict[str, Any]:
    """What only one architecture wants, or wants differently."""
    streams = {
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
    }
    history = {
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "hyper_connection.low_rank": 8,
        "attention.compress_ratios": [4] * n_layer,
        "ple.layers": [0],
        "ple.ngram_size": 3,
        "ple.heads_per_ngram": 2,
        "ple.conv_kernel": 4,
        "ple.eos_token_id": 0,
        "embedding_length_per_layer_input": n_embd // 4,
        "ple.layer_multipliers": np.array([1, 3, 5], np.uint64),
        "ple.head_offsets": np.arange(4, dtype=np.uint64) * N_VOCAB,
        "ple.head_vocab_sizes": np.full(4, N_VOCAB, np.uint64),
    }
    windows = {"attention.key_length_swa": head, "attention.value_length_swa": head, "rope.freq_base_swa": 10000.0}
    low_rank = {f"attention.{name}_lora_rank": 16 for name in ("decay", "iclr", "value_residual_mix", "gate")}
    of_one: dict[str, dict[str, Any]] = {
        "arwkv7": low_rank,
        "bailingmoe3": {"swiglu_clamp_exp": [0.0, 4.0], "swiglu_clamp_shexp": [0.0, 5.0]},
        "deepseek4": streams
        | {
            "attention.key_length": head,
            "attention.value_length": head,
            "rope.dimension_count": head // 2,
            "attention.output_group_count": 8,
            "attention.output_lora_rank": 32,
            "attention.compress_ratios": [0, 0, 4, 128],
            "attention.compress_rope_freq_base": 160000.0,
            "hash_layer_count": 0,
            "swiglu_clamp_exp": 10.0,
            "expert_gating_func": 4,
        },
        "dflash": {"block_size": 4, "target_layers": [0, 1], "target_hidden_size": n_embd},
        "eagle3": {"target_layers": [0, 1, 1], "target_hidden_size": n_embd},
        "gemma4": windows | {"embedding_length_per_layer_input": n_embd // 2, "attention.shared_kv_layers": 0},
        "gemma4-assistant": windows | {"embedding_length_out": 2 * n_embd, "nextn_predict_layers": n_layer},
        "glm5-next": history,
        "graniteswitch": {
            "adapters.count": 1,
            "adapters.lora_rank": 8,
            "adapters.token_ids_activate": [5],
            "adapters.token_ids_substitute": [6],
        },
        "hrm_text": {"hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 2},
        "hy_v4": streams | {"hyper_connection.magnitude": 2.0, "swiglu_clamp_exp": 10.0},
        # where it has windows, it has them in all layers
        "lfm2": {"attention.sliding_window": None},
        "lfm2moe": {"attention.sliding_window": None},
        "maple": {"swiglu_clamp_exp": 7.0},
        "minicpm3": {"rope.dimension_count": 64},
        "minimax-m3": {"rope.dimension_count": 64},
        "plm": {"rope.dimension_count": 64},
        "qwen4exp": history,
        "rwkv7": low_rank,
    }
    return of_one.get(arch, {})


def _n_vocab(arch: str) -> int:
    return {"chameleon": 10240, "qwen3tts": 3072}.get(arch, N_VOCAB)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = gguf.GGUFValueType
    if isinstance(value, np.ndarray):
        writer.add_key_value(key, value.tolist(), kinds.ARRAY, sub_type=kinds.UINT64)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _writer(path: Path, arch: str, changes: dict[str, Any]) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, arch)
    n_vocab = _n_vocab(arch)
    for name, value in {**hyperparameters(arch), "vocab_size": n_vocab, **changes}.items():
        if value is not None:
            _add(writer, name if name.startswith("xielu") else f"{arch}.{name}", value)
    n_more = n_vocab - N_VOCAB
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"t{i}" for i in range(n_more))]
    )
    writer.add_token_scores([0.0] * n_vocab)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * n_more)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    return writer


class DummyError(Exception):
    """llama.cpp makes no model of these hyperparameters."""


def _tensors(head: Path, arch: str) -> dict[str, tuple[int, ...]]:
    """Name and shape (as NumPy has it) of every tensor that llama.cpp wants of a model with these hyperparameters."""
    if arch == "gemma4-assistant":  # has optional tensors of no shape, which llama.cpp cannot make without a file
        return _assistant_tensors()
    base = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufInitParams]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    shapes: dict[str, tuple[int, ...]] = {}

    def note(tensor: int, _: Any) -> None:
        fields = _Tensor.from_address(tensor)
        shape = [int(n) for n in fields.ne]
        while len(shape) > 1 and shape[-1] == 1:
            shape.pop()
        shapes[fields.name.decode()] = tuple(reversed(shape))

    errors: list[str] = []

    def listen(level: int, text: bytes, _: Any) -> None:
        if b"error loading model: " in text:
            errors.append(text.decode().strip().rpartition("error loading model: ")[2])

    callback = llama_cpp.llama_model_set_tensor_data_t(note)
    metadata = base.gguf_init_from_file(str(head).encode(), _GgufInitParams(True, None))
    params = llama_cpp.llama_model_default_params()
    listener = llama_cpp.llama_log_callback(listen)
    llama_cpp.llama_log_set(listener, None)
    model = llama_cpp.llama_model_init_from_user(metadata, callback, None, params)
    llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, None)
    base.gguf_free(metadata)
    if not model:
        raise DummyError(errors[-1] if errors else "llama.cpp makes no model of these hyperparameters")
    llama_cpp.llama_model_free(model)
    return shapes


def _assistant_tensors(d: int = 256, n_head: int = 2, n_layer: int = 2) -> dict[str, tuple[int, ...]]:
    n_ff, head = 3 * d // 2, d // n_head
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, d),
        "output_norm.weight": (d,),
        "nextn.pre_projection.weight": (d, 4 * d),
        "nextn.post_projection.weight": (2 * d, d),
        "rope_freqs.weight": (head // 2,),
    }
    for layer in range(n_layer):
        block = {
            **{f"{name}.weight": (d,) for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")},
            **{f"{name}.weight": (d, d) for name in ("attn_q", "attn_output")},
            **{f"{name}.weight": (n_ff, d) for name in ("ffn_gate", "ffn_up")},
            "ffn_down.weight": (d, n_ff),
            "attn_q_norm.weight": (head,),
            "layer_output_scale.weight": (1,),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes


class _GgufInitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


class _Tensor(ctypes.Structure):
    """struct ggml_tensor, as far as its name."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if "norm" in name and name.endswith("weight"):
        return (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    if name.startswith("rope_"):  # by how much RoPE's frequencies are lowered
        return np.linspace(1, 8, shape[0], dtype=np.float32)
    values = 0.1 * rng.standard_normal(shape)
    if "ssm_a" in name:  # a state that decays
        values = -np.abs(values)
    return values.astype(np.float32)


def write(path: Path, arch: str, **changes: Any) -> None:
    """Writes a dummy model; `changes` are hyperparameters, None leaves one out. DummyError if llama.cpp wants none like it."""
    head = path.with_suffix(".head")
    for target, tensors in ((head, {}), (path, None)):
        writer = _writer(target, arch, changes)
        for name, shape in (_tensors(head, arch) if tensors is None else tensors).items():
            if not (arch == "rwkv6qwen2" and "time_mix_first" in name):  # which it has not, and rwkv6 has
                writer.add_tensor(name, _values(name, shape))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    head.unlink()
