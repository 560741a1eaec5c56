#include "llama-asymkv-model.h"

#include "llama-arch.h"
#include "llama-model.h"

#include "asymkv-params.h"

static const char * AT_ONCE = "it is an encoder or diffusion model and reads its text at once, without a cache that grows";

std::string llama_asymkv_model_problem(const llama_model & model) {
    const auto & hparams = model.hparams;

    const std::string arch = llm_arch_name(model.arch);
    const auto because = [&](const std::string & reason) { return "the architecture '" + arch + "' cannot be merged: " + reason; };

    if (hparams.vocab_only) {
        return "the model was loaded without weights (vocab_only), so there is nothing to cache";
    }
    if (!hparams.causal_attn || llm_arch_is_diffusion(model.arch)) {
        return because(AT_ONCE);
    }
    if (llm_arch_is_recurrent(model.arch)) {
        return because("it is recurrent, and its state does not grow");
    }
    if (hparams.is_mla()) {
        return because("its values are a view of its keys (MLA), and merging would change both alike");
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return because("it has ALiBi, which scales the mask that carries the cardinalities");
    }
    if (hparams.router_layer >= 0) {
        return because("one of its layers keeps routing signals in the cache");
    }
    if (hparams.rope_type == LLAMA_ROPE_TYPE_VISION) {
        return because("its positions are those of an image");
    }
    if (hparams.n_embd_k_gqa_max() == 0) {
        return because("it has no attention layers");
    }

    switch (model.arch) {
        case LLM_ARCH_BERT:
        case LLM_ARCH_EUROBERT:
        case LLM_ARCH_GEMMA_EMBEDDING:
        case LLM_ARCH_JINA_BERT_V2:
        case LLM_ARCH_JINA_BERT_V3:
        case LLM_ARCH_LLAMA_EMBED:
        case LLM_ARCH_MODERN_BERT:
        case LLM_ARCH_NEO_BERT:
        case LLM_ARCH_NOMIC_BERT:
        case LLM_ARCH_NOMIC_BERT_MOE:
        case LLM_ARCH_WAVTOKENIZER_DEC:
            return because(AT_ONCE); // also where the file does not say that it is not causal
        case LLM_ARCH_T5:
        case LLM_ARCH_T5ENCODER:
            return because("its attention adds a bias by relative position");
        case LLM_ARCH_MINIMAX_M3:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_QWEN4EXP:
            return because("a second cache mirrors its attention cache slot by slot");
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_DFLASH:
            return because("it reads another model's cache");
        case LLM_ARCH_EAGLE3:
            return because("it drafts for another model, from what that model computes");
        default:
            break;
    }

    return "";
}
