// damages states and restores them: bytes choose a state, of a whole context or of a sequence, and what becomes of it. It is
// refused, and then nothing is left, or all of the text before; or it is taken, and then all invariants hold, and the text
// goes on, through compressions, or a decode says that it cannot.
//
//     fuzz-state MODEL [SEED [COUNT]]     COUNT inputs of the seeds from SEED on; a failure names its seed: fuzz-state MODEL SEED 1
//
// the same with libFuzzer, where ASYMKV_FUZZ_MODEL names the model (scripts/sanitize.sh fuzz-state)

#include "capi.h"

#include <algorithm>

using namespace capi;

namespace {

struct reader {
    const uint8_t * data;
    size_t          size;

    bool is_over() const { return size == 0; }

    uint8_t byte() {
        if (size == 0) {
            return 0;
        }
        --size;
        return *data++;
    }
    uint64_t number(int n_bytes) {
        uint64_t x = 0;
        for (int i = 0; i < n_bytes; ++i) {
            x = x << 8 | byte();
        }
        return x;
    }
};

asymkv_params fuzz_params(uint32_t kind) {
    asymkv_params p = small_params();
    p.budget  = 40;
    p.room    = 32;
    p.recent  = 12;
    p.observe = 4;
    switch (kind) {
        case 1: p.per_head = 0; p.score = ASYMKV_SCORE_MASS; break;
        case 2: p.horizon  = 64; p.span = 2*(p.recent + p.room); break; // positions that moved
        case 3: p.score    = ASYMKV_SCORE_KEYDIFF; break;
        default: break;
    }
    return p;
}

constexpr uint32_t N_KINDS = 4;

// one kind of cache: a context to restore into, what it holds before, and states of texts that are longer
struct target {
    context_ptr        ctx;
    bool               is_merged;
    bytes              before;   // of a short text
    std::vector<bytes> whole;    // before anything was merged, and after
    std::vector<bytes> sequence; // "
    std::vector<float> fresh;    // logits of `probe` in an empty context
    tokens             probe;
    tokens             more;

    target(llama_model * model, uint32_t kind) : is_merged(kind < N_KINDS) {
        const asymkv_params p = fuzz_params(kind);

        llama_context_params settings = small_context();
        settings.n_ctx = 512;
        if (kind == 3) {
            settings.type_k = GGML_TYPE_Q8_0;
        }
        if (kind == 1) {
            settings.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
        ctx = open_context(model, is_merged ? &p : nullptr, settings);
        CHECK(ctx);

        probe = random_text(ctx.get(), 6, 9);
        more  = random_text(ctx.get(), 30, 8);
        fresh = read_on(ctx.get(), probe);
        clear();

        for (const size_t n : { 30, 300 }) {
            read(ctx.get(), random_text(ctx.get(), n, 1), 30);
            if (n > 100 && is_merged) {
                CHECK(stats_of(ctx.get()).n_compressions > 0);
                CHECK(asymkv_compress(ctx.get(), 0) == ASYMKV_OK);
                read(ctx.get(), random_text(ctx.get(), 3, 2)); // tokens behind the packed ones
            }
            whole   .push_back(state_of(ctx.get()));
            sequence.push_back(state_of(ctx.get(), true));
            clear();
        }
        read(ctx.get(), random_text(ctx.get(), 20, 3));
        before = state_of(ctx.get());
    }

    void clear() { llama_memory_clear(memory(ctx.get()), true); }
};

// numbers at which sizes, counts and positions break
constexpr uint64_t ODD[] = {
    0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x3fffffff, 0x40000000, 0x7ffffffe, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
    0x7f800000, 0x7fc00000, 0x7e00fc00, 0x4b4d5341, 1ull << 32, 1ull << 40, 1ull << 62, UINT64_MAX, 0x7ff0000000000000, 0x7ff8000000000000,
};

bytes damaged(bytes state, reader & in) {
    while (!in.is_over() && !state.empty()) {
        const uint8_t what = in.byte();

        // counts stand at the start, tables and rings near the end
        size_t at = in.number(2);
        switch (what >> 6) {
            case 0:  at %= 512; break;
            case 1:  break;
            case 2:  at = state.size() - 1 - at % state.size(); break;
            default: at = at*state.size()/65536; break;
        }
        at = what & 32 ? at % state.size() : at/4*4 % state.size();
        const size_t left = state.size() - at;

        switch (what & 7) {
            case 0: state[at] ^= 1u << (in.byte() & 7); break;
            case 1: state[at]  = in.byte(); break;
            case 2: case 3:
                {
                    const uint64_t odd = ODD[in.byte() % (sizeof(ODD)/sizeof(ODD[0]))];
                    std::memcpy(state.data() + at, &odd, std::min<size_t>(left, what & 1 ? 8 : 4));
                } break;
            case 4: // a little more, or less
                {
                    uint32_t x = 0;
                    std::memcpy(&x, state.data() + at, std::min<size_t>(left, 4));
                    x += (int8_t) in.byte();
                    std::memcpy(state.data() + at, &x, std::min<size_t>(left, 4));
                } break;
            case 5: // something of elsewhere
                {
                    const size_t from = in.number(2) % state.size();
                    std::memmove(state.data() + at, state.data() + from, std::min<size_t>(1 + in.byte(), std::min(left, state.size() - from)));
                } break;
            case 6: state.resize(at); break;
            default:
                {
                    const size_t n = 1 + in.byte();
                    in.byte() & 1 ? (void) state.insert(state.begin() + at, n, 0) : (void) state.erase(state.begin() + at, state.begin() + at + std::min(n, left));
                } break;
        }
    }
    return state;
}

uint64_t n_taken   = 0;
uint64_t n_refused = 0;

model_ptr                            model; // outlives the contexts
std::vector<std::unique_ptr<target>> targets;

void prepare(const char * path) {
    be_quiet();
    model = open_model(path);
    for (uint32_t kind = 0; kind <= N_KINDS; ++kind) { // the last one: a stock cache
        targets.push_back(std::make_unique<target>(model.get(), kind));
    }
}

// restored, and what is left is sound
void try_state(target & t, const bytes & state, bool is_sequence) {
    llama_context * ctx = t.ctx.get();

    const size_t n = restore(ctx, state, is_sequence);
    CHECK(n <= state.size());
    if (n == 0) {
        ++n_refused;
        if (pos_max(ctx) != -1) {
            CHECK(state_of(ctx) == t.before);
            t.clear();
        }
        CHECK(!t.is_merged || (is_sound(ctx) && stats_of(ctx).n_tokens == 0));
        // what the state would have written is not there, either
        CHECK(read_on(ctx, t.probe) == t.fresh);
    } else {
        ++n_taken;
        CHECK(!t.is_merged || is_sound(ctx));
        const bytes again = state_of(ctx, is_sequence);
        CHECK(restore(ctx, again, is_sequence) == again.size());
        for (int i = 0; i < 3; ++i) {
            if (decode(ctx, t.more.data(), t.more.size()) != 0) {
                break;
            }
            CHECK(!t.is_merged || is_sound(ctx));
        }
        if (t.is_merged && asymkv_compress(ctx, 0) != ASYMKV_OK) {
            CHECK(is_sentence(asymkv_last_error()));
        }
        CHECK(!t.is_merged || is_sound(ctx));
        t.clear();
        CHECK(read_on(ctx, t.probe) == t.fresh);
    }
    t.clear();
    CHECK(restore(ctx, t.before) == t.before.size());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    reader in { data, size };

    target & t = *targets[in.byte() % targets.size()];
    const uint8_t which = in.byte();
    const auto  & states = which & 1 ? t.sequence : t.whole;

    try_state(t, damaged(states[(which >> 1) % states.size()], in), which & 1);
    return 0;
}

#ifdef ASYMKV_LIBFUZZER

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    const char * path = getenv("ASYMKV_FUZZ_MODEL");
    if (!path) {
        fprintf(stderr, "set ASYMKV_FUZZ_MODEL to the model file\n");
        exit(2);
    }
    prepare(path);
    return 0;
}

#else

static const char * model_path = "";
static uint64_t     running    = 0;

#include <csignal>

static void name_seed(int) {
    fprintf(stderr, "while running: fuzz-state %s %llu 1\n", model_path, (unsigned long long) running);
    signal(SIGABRT, SIG_DFL);
    abort();
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [SEED [COUNT]]\n", argv[0]);
        return 2;
    }
    model_path = argv[1];
    prepare(model_path);
    signal(SIGABRT, name_seed); // of CHECK, and of the sanitizers with abort_on_error=1

    // what was not damaged is taken
    for (auto & t : targets) {
        for (size_t i = 0; i < t->whole.size(); ++i) {
            try_state(*t, t->whole[i], false);
            try_state(*t, t->sequence[i], true);
        }
        CHECK(n_refused == 0);
    }

    const uint64_t seed  = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1;
    const uint64_t count = argc > 3 ? strtoull(argv[3], nullptr, 10) : 300;
    n_taken = 0;
    for (running = seed; running < seed + count; ++running) {
        std::mt19937_64 rng(running);
        uint8_t data[18];
        for (auto & x : data) {
            x = (uint8_t) rng();
        }
        LLVMFuzzerTestOneInput(data, 2 + 4*(1 + rng() % 4));
    }
    printf("ok fuzz-state: %llu taken, %llu refused\n", (unsigned long long) n_taken, (unsigned long long) n_refused);

    // an input that is always refused, or never, tests nothing
    return count < 100 || (n_taken > count/20 && n_refused > count/20) ? 0 : 1;
}

#endif
