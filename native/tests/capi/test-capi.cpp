// the C API and llama.cpp's own on a context with a merged cache: what it does, and every refusal
//
//     test-capi MODEL

#include "capi.h"

#include <algorithm>
#include <functional>

using namespace capi;

namespace {

constexpr int32_t N_TEXT    = 480; // two compressions at least
constexpr int32_t N_MAX_SEQ = 256; // of llama.cpp: the first that there cannot be

// without a context

void test_params() {
    asymkv_params_init(nullptr);
    CHECK(asymkv_params_check(nullptr) == ASYMKV_ERR_PARAMS && last_error_has("asymkv_params is null"));

    asymkv_params p;
    asymkv_params_init(&p);
    CHECK(p.size == sizeof(p) && asymkv_params_check(&p) == ASYMKV_OK);

    const struct {
        std::function<void(asymkv_params &)> spoil;
        const char * words;
    } wrong[] = {
        { [](auto & x) { x.size        = 4; },                                     "header and library are of different versions" },
        { [](auto & x) { x.score       = 99; },                                    "unknown score 99" },
        { [](auto & x) { x.score       = -1; },                                    "unknown score -1" },
        { [](auto & x) { x.key_weights = 4; },                                     "unknown key weights 4" },
        { [](auto & x) { x.evict       = 3; },                                     "unknown evict 3" },
        { [](auto & x) { x.score       = ASYMKV_SCORE_H2O;  x.evict = ASYMKV_EVICT_NEVER; }, "only evicts" },
        { [](auto & x) { x.score       = ASYMKV_SCORE_MASS; x.evict = ASYMKV_EVICT_ONLY; },  "cannot evict" },
        { [](auto & x) { x.budget      = 0; },                                     "a budget of 0 slots" },
        { [](auto & x) { x.budget      = UINT32_MAX; },                            "a budget of 4294967295 slots" },
        { [](auto & x) { x.room        = 0; },                                     "a room of 0 slots" },
        { [](auto & x) { x.room        = (1u << 24) + 1; },                        "a room of 16777217 slots" },
        { [](auto & x) { x.sinks       = UINT32_MAX; x.recent = UINT32_MAX; },     "is too small for 4294967295 sinks" },
        { [](auto & x) { x.observe     = x.recent + 1; },                          "more than the 64 recent tokens" },
        { [](auto & x) { x.observe     = 0; },                                     "leaves nothing to score with" },
        { [](auto & x) { x.span        = 1; },                                     "a span of 1 positions is too short" },
        { [](auto & x) { x.decay       = 0.5f; },                                  "decay has to be" },
        { [](auto & x) { x.accumulate  = NAN; },                                   "accumulate has to lie in [0, 1]" },
        { [](auto & x) { x.history     = -1.0f; },                                 "history has to lie in [0, 1000]" },
        { [](auto & x) { x.horizon     = 1; },                                     "a horizon of 1 tokens" },
        { [](auto & x) { x.horizon     = 5000; x.evict = ASYMKV_EVICT_NEVER; },    "evict is never (0)" },
        { [](auto & x) { x.horizon     = 5000; x.score = ASYMKV_SCORE_MASS; },     "the score mass cannot evict" },
    };
    for (const auto & w : wrong) {
        asymkv_params x = p;
        w.spoil(x);
        CHECK(asymkv_params_check(&x) == ASYMKV_ERR_PARAMS && last_error_has(w.words));
        CHECK(asymkv_set_next(&x)     == ASYMKV_ERR_PARAMS && last_error_has(w.words));
    }

    size_t sizes[6] = {};
    asymkv_struct_sizes(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    asymkv_struct_sizes(&sizes[0], &sizes[1], &sizes[2], &sizes[3], &sizes[4], &sizes[5]);
    CHECK(sizes[0] == sizeof(asymkv_params) && sizes[1] == sizeof(asymkv_stats) && sizes[2] == sizeof(asymkv_slot));
    CHECK(sizes[3] == sizeof(asymkv_group)  && sizes[4] == sizeof(asymkv_op)    && sizes[5] == sizeof(asymkv_result));

    uint32_t n = 0;
    while (asymkv_architecture(n)) {
        ++n;
    }
    CHECK(n > 50 && !asymkv_architecture(UINT32_MAX));
}

void test_group_without_a_context() {
    const asymkv_params p = small_params();

    asymkv_group  g = {};
    asymkv_result r = {};
    CHECK(asymkv_compress_group(nullptr, &g, 1, &r)     == ASYMKV_ERR_PARAMS && last_error_has("asymkv_params"));
    CHECK(asymkv_compress_group(&p, nullptr, 1, &r)     == ASYMKV_ERR_PARAMS && last_error_has("asymkv_group is null"));
    CHECK(asymkv_compress_group(&p, &g, 1, &r)          == ASYMKV_ERR_PARAMS && last_error_has("asymkv_group is null or has another size"));
    g.size = sizeof(g);
    CHECK(asymkv_compress_group(&p, &g, 1, nullptr)     == ASYMKV_ERR_PARAMS && last_error_has("asymkv_result is null"));
    CHECK(asymkv_compress_group(&p, &g, 1, &r)          == ASYMKV_ERR_PARAMS && last_error_has("asymkv_result is null or has another size"));
    r.size = sizeof(r);
    CHECK(asymkv_compress_group(&p, &g, 1, &r)          == ASYMKV_ERR_PARAMS && last_error_has("at least one slot, head and channel"));
    g.n_slots = g.n_heads = g.head_k = g.head_v = 1;
    g.scale = 1.0f;
    CHECK(asymkv_compress_group(&p, &g, 1, &r)          == ASYMKV_ERR_PARAMS && last_error_has("an array of the group is missing"));
}

// all functions of a context, on one that has no merged cache, or on none
void test_no_cache(llama_context * ctx) {
    asymkv_params p = {};
    asymkv_stats  s = {};
    asymkv_group  g = {};
    uint64_t n;
    CHECK(asymkv_get_params(ctx, nullptr) == ASYMKV_ERR_PARAMS && last_error_has("asymkv_params is null"));
    CHECK(asymkv_get_params(ctx, &p)      == ASYMKV_ERR_PARAMS && last_error_has("has another size"));
    CHECK(asymkv_get_stats(ctx, nullptr)  == ASYMKV_ERR_PARAMS && last_error_has("asymkv_stats is null"));
    CHECK(asymkv_get_stats(ctx, &s)       == ASYMKV_ERR_PARAMS && last_error_has("has another size"));
    CHECK(asymkv_read_group(ctx, 0, 0, nullptr) == ASYMKV_ERR_PARAMS && last_error_has("asymkv_group is null"));
    CHECK(asymkv_read_group(ctx, 0, 0, &g)      == ASYMKV_ERR_PARAMS && last_error_has("has another size"));
    p.size = sizeof(p);
    s.size = sizeof(s);
    g.size = sizeof(g);
    for (const int status : {
            asymkv_get_params(ctx, &p), asymkv_get_stats(ctx, &s), asymkv_compress(ctx, 0), asymkv_slots(ctx, 0, 0, nullptr, 0),
            asymkv_n_lost(ctx, 0, 0, &n), asymkv_read_group(ctx, 0, 0, &g), asymkv_check(ctx) }) {
        CHECK(status == ASYMKV_ERR_NO_CACHE && last_error_has("this context has no merged cache"));
    }
}

// making one

void test_making(llama_model * model) {
    const asymkv_params p = small_params();

    CHECK(asymkv_model_check(nullptr, &p)    == ASYMKV_ERR_PARAMS && last_error_has("there is no model"));
    CHECK(asymkv_model_check(model, nullptr) == ASYMKV_ERR_PARAMS);
    CHECK(asymkv_model_check(model, &p)      == ASYMKV_OK);

    // a wish that is refused or taken back is none
    asymkv_params wrong = p;
    wrong.budget = 0;
    CHECK(asymkv_set_next(&p)     == ASYMKV_OK);
    CHECK(asymkv_set_next(&wrong) == ASYMKV_ERR_PARAMS);
    test_no_cache(context_ptr(llama_init_from_model(model, small_context())).get());
    CHECK(asymkv_set_next(&p)      == ASYMKV_OK);
    CHECK(asymkv_set_next(nullptr) == ASYMKV_OK);
    test_no_cache(context_ptr(llama_init_from_model(model, small_context())).get());

    llama_context_params settings = small_context();
    settings.n_seq_max = 2;
    CHECK(!open_context(model, &p, settings) && last_error_has("n_seq_max is 2"));

    const context_ptr ctx = open_context(model, &p);
    CHECK(ctx);
    asymkv_params got = {};
    got.size = sizeof(got);
    CHECK(asymkv_get_params(ctx.get(), &got) == ASYMKV_OK);
    CHECK(got.budget == p.budget && got.room == p.room && got.recent == p.recent && got.observe == p.observe && got.history == p.history);
    CHECK(is_sound(ctx.get()));
    CHECK(asymkv_compress(ctx.get(), 0) == ASYMKV_OK); // of nothing
}

// reading, and looking at it

void check_read_group(llama_context * ctx, const asymkv_params & p, uint32_t layer, uint32_t group, uint32_t n_slots) {
    asymkv_group g = {};
    g.size = sizeof(g);
    CHECK(asymkv_read_group(ctx, layer, group, &g) == ASYMKV_OK);
    CHECK(g.n_slots == n_slots && !g.keys && g.n_queries > 0);

    std::vector<float>    keys((size_t) g.n_slots*g.n_heads*g.head_k), values((size_t) g.n_slots*g.n_heads*g.head_v), queries((size_t) g.n_heads*g.n_queries*g.head_k);
    std::vector<float>    scores(g.n_slots), freqs(g.n_rot/2), sinks((size_t) g.n_heads*g.n_queries);
    std::vector<int32_t>  query_positions(g.n_queries);
    std::vector<double>   positions(g.n_slots);
    std::vector<uint32_t> cards(g.n_slots);
    std::vector<uint8_t>  is_protected(g.n_slots), is_expired(g.n_slots);

    g.keys = keys.data(); g.values = values.data(); g.queries = queries.data(); g.scores = scores.data(); g.rope_freqs = freqs.data();
    g.sink_logits = sinks.data(); g.query_positions = query_positions.data(); g.positions = positions.data(); g.cardinalities = cards.data();
    g.is_protected = is_protected.data(); g.is_expired = is_expired.data();
    CHECK(asymkv_read_group(ctx, layer, group, &g) == ASYMKV_OK);
    CHECK(all_finite(keys) && all_finite(values) && all_finite(queries) && all_finite(scores) && all_finite(freqs));
    CHECK(std::is_sorted(positions.begin(), positions.end()));

    // what was read can be compressed without the context
    const uint32_t n_keep = n_slots/2 + p.sinks + p.recent < n_slots ? n_slots/2 + p.sinks + p.recent : n_slots;
    std::vector<asymkv_op> ops(n_slots - n_keep);
    std::vector<uint32_t>  kept(n_keep), cards_after(n_keep);
    std::vector<float>     keys_after((size_t) n_keep*g.n_heads*g.head_k);
    asymkv_result r = {};
    r.size = sizeof(r);
    r.ops = ops.data(); r.kept = kept.data(); r.cardinalities = cards_after.data(); r.keys = keys_after.data();
    CHECK(asymkv_compress_group(&p, &g, n_keep, &r) == ASYMKV_OK);
    CHECK(r.n_ops == n_slots - n_keep && r.n_merges + r.n_evictions == r.n_ops);
    CHECK(std::is_sorted(kept.begin(), kept.end()) && (kept.empty() || kept.back() < n_slots));
    CHECK(all_finite(keys_after));
    CHECK(asymkv_compress_group(&p, &g, 1, &r) == ASYMKV_ERR_PARAMS && last_error_has("cannot keep only 1 slots"));
}

void check_views(llama_context * ctx, const asymkv_params & p) {
    const asymkv_stats s = stats_of(ctx);
    CHECK(asymkv_slots(ctx, 0, 0, nullptr, 0) == (int) s.n_slots);
    std::vector<asymkv_slot> few(3);
    CHECK(asymkv_slots(ctx, 0, 0, few.data(), 2) == (int) s.n_slots && few[1].cardinality > 0 && few[2].cardinality == 0);
    CHECK(asymkv_n_lost(ctx, 0, 0, nullptr) == ASYMKV_OK);

    asymkv_group g = {};
    g.size = sizeof(g);
    for (const uint32_t layer : { s.n_layer, UINT32_MAX }) {
        CHECK(asymkv_slots(ctx, layer, 0, nullptr, 0)  == ASYMKV_ERR_PARAMS && last_error_has("merged layers"));
        CHECK(asymkv_n_lost(ctx, layer, 0, nullptr)    == ASYMKV_ERR_PARAMS && last_error_has("is out of range"));
        CHECK(asymkv_read_group(ctx, layer, 0, &g)     == ASYMKV_ERR_PARAMS && last_error_has("is out of range"));
    }
    for (const uint32_t group : { s.n_group, UINT32_MAX }) {
        CHECK(asymkv_slots(ctx, 0, group, nullptr, 0)  == ASYMKV_ERR_PARAMS && last_error_has("layer 0 has"));
        CHECK(asymkv_n_lost(ctx, 0, group, nullptr)    == ASYMKV_ERR_PARAMS && last_error_has("is out of range"));
        CHECK(asymkv_read_group(ctx, 0, group, &g)     == ASYMKV_ERR_PARAMS && last_error_has("is out of range"));
    }
    if (p.observe > 0) {
        check_read_group(ctx, p, s.n_layer - 1, s.n_group - 1, s.n_slots);
    }
}

// every kind of cache, read past several compressions; restored, and read on
void test_text(llama_model * model, const char * name, const asymkv_params & p, const llama_context_params & settings, bool restores = true) {
    const context_ptr ctx = open_context(model, &p, settings);
    CHECK(ctx);

    const tokens text = random_text(ctx.get(), N_TEXT, 1);
    for (size_t i = 0; i < text.size(); i += N_BATCH) {
        CHECK(decode(ctx.get(), text.data() + i, std::min<size_t>(N_BATCH, text.size() - i)) == 0);
        CHECK(is_sound(ctx.get()));
    }
    const asymkv_stats s = stats_of(ctx.get());
    CHECK(s.n_tokens == (uint64_t) N_TEXT && s.n_compressions >= 2 && s.n_merges + s.n_evictions > 0 && s.n_slots <= s.n_capacity);
    CHECK(all_finite(last_logits(ctx.get())));
    check_views(ctx.get(), p);

    CHECK(asymkv_compress(ctx.get(), p.sinks + p.recent) == ASYMKV_ERR_PARAMS && last_error_has("cannot keep only"));
    CHECK(stats_of(ctx.get()).n_slots == s.n_slots);
    CHECK(asymkv_compress(ctx.get(), p.sinks + p.recent + 10) == ASYMKV_OK);
    CHECK(stats_of(ctx.get()).n_slots == p.sinks + p.recent + 10 && is_sound(ctx.get()));

    const tokens more = random_text(ctx.get(), 210, 2); // and one more
    for (const bool sequence : { false, true }) {
        if (!restores) {
            break;
        }
        const bytes state = state_of(ctx.get(), sequence);
        const std::vector<float> expected = read_on(ctx.get(), more);
        CHECK(restore(ctx.get(), state, sequence) == state.size());
        CHECK(is_sound(ctx.get()) && state_of(ctx.get(), sequence) == state);
        CHECK(read_on(ctx.get(), more) == expected);

        const context_ptr other = open_context(model, &p, settings);
        read(other.get(), random_text(ctx.get(), 70, 3));
        CHECK(restore(other.get(), state, sequence) == state.size());
        CHECK(read_on(other.get(), more) == expected);
        CHECK(restore(ctx.get(), state, sequence) == state.size());
    }
    printf("ok %s: %llu compressions\n", name, (unsigned long long) s.n_compressions);
}

// one token of the past after the other is taken back

void test_cuts(llama_model * model) {
    const asymkv_params p = small_params();
    const context_ptr ctx = open_context(model, &p);
    auto * mem = memory(ctx.get());

    CHECK(llama_memory_seq_rm(mem, 0, 5, -1)); // of nothing
    read(ctx.get(), random_text(ctx.get(), N_TEXT, 1));
    CHECK(asymkv_compress(ctx.get(), 0) == ASYMKV_OK);

    const bytes before = state_of(ctx.get());
    for (const auto & [p0, p1] : std::vector<std::pair<llama_pos, llama_pos>> { { 5, -1 }, { 100, -1 }, { 100, 200 }, { 5, N_TEXT - 1 }, { 0, 300 }, { -5, 6 } }) {
        CHECK(!llama_memory_seq_rm(mem, 0, p0, p1) && last_error_has("cannot be removed"));
        CHECK(state_of(ctx.get()) == before);
    }
    for (const auto & [p0, p1] : std::vector<std::pair<llama_pos, llama_pos>> { { N_TEXT, -1 }, { 50, 50 }, { 60, 50 }, { N_TEXT + 100, N_TEXT + 200 } }) {
        CHECK(llama_memory_seq_rm(mem, 0, p0, p1)); // nothing is there
        CHECK(state_of(ctx.get()) == before);
    }
    CHECK(llama_memory_seq_rm(mem, 7, -1, -1)); // no such sequence
    CHECK(state_of(ctx.get()) == before);

    // the recent window, and all from the first merged token on
    CHECK(llama_memory_seq_rm(mem, 0, N_TEXT - 10, -1));
    CHECK(is_sound(ctx.get()) && stats_of(ctx.get()).n_tokens == N_TEXT - 10 && pos_max(ctx.get()) == N_TEXT - 11);
    read(ctx.get(), random_text(ctx.get(), 300, 2));
    CHECK(is_sound(ctx.get()));
    CHECK(llama_memory_seq_rm(mem, 0, 4, -1));
    CHECK(is_sound(ctx.get()) && stats_of(ctx.get()).n_tokens == 4);
    read(ctx.get(), random_text(ctx.get(), 300, 3));
    CHECK(is_sound(ctx.get()));
    CHECK(llama_memory_seq_rm(mem, -1, -1, -1));
    CHECK(is_sound(ctx.get()) && stats_of(ctx.get()).n_tokens == 0 && pos_max(ctx.get()) == -1);
}

void test_sequences(llama_model * model) {
    const asymkv_params p = small_params();
    const context_ptr ctx = open_context(model, &p);
    auto * mem = memory(ctx.get());

    read(ctx.get(), random_text(ctx.get(), N_TEXT, 1));
    const bytes before = state_of(ctx.get());

    llama_memory_seq_cp (mem, 0, 1, -1, -1);
    CHECK(last_error_has("cannot copy it to another") && state_of(ctx.get()) == before);
    llama_memory_seq_add(mem, 0, 0, -1, 5);
    CHECK(last_error_has("cannot shift its positions") && state_of(ctx.get()) == before);
    llama_memory_seq_div(mem, 0, 0, -1, 2);
    CHECK(last_error_has("cannot divide its positions") && state_of(ctx.get()) == before);
    llama_memory_seq_cp (mem, 0, 0, -1, -1);
    llama_memory_seq_keep(mem, 0);
    CHECK(state_of(ctx.get()) == before);
    CHECK(!llama_memory_can_shift(mem));

    // a batch of another sequence, one that is too long, and one without tokens
    llama_batch batch = llama_batch_init(1, 0, 1);
    batch.n_tokens     = 1;
    batch.token[0]     = 5;
    batch.pos[0]       = 0;
    batch.n_seq_id[0]  = 1;
    batch.seq_id[0][0] = 1;
    batch.logits[0]    = true;
    CHECK(llama_decode(ctx.get(), batch) != 0);
    CHECK(state_of(ctx.get()) == before);
    batch.n_tokens = 0;
    CHECK(llama_decode(ctx.get(), batch) != 0);
    llama_batch_free(batch);
    CHECK(state_of(ctx.get()) == before);

    llama_memory_seq_keep(mem, 1);
    CHECK(is_sound(ctx.get()) && stats_of(ctx.get()).n_tokens == 0);
}

// states that are not this context's

void test_states(llama_model * model) {
    const asymkv_params p = small_params();
    const context_ptr ctx = open_context(model, &p);
    read(ctx.get(), random_text(ctx.get(), N_TEXT, 1));

    const bytes state = state_of(ctx.get()), sequence = state_of(ctx.get(), true);

    // too small a place for it, and sequences that there are not
    bytes place(state.size());
    for (const size_t n : { (size_t) 0, (size_t) 10, state.size()/2, state.size() - 1 }) {
        CHECK(llama_state_get_data(ctx.get(), place.data(), n) == 0);
        CHECK(llama_state_seq_get_data(ctx.get(), place.data(), std::min(n, sequence.size() - 1), 0) == 0);
    }
    for (const llama_seq_id seq : { -2, 1, N_MAX_SEQ, std::numeric_limits<llama_seq_id>::min(), std::numeric_limits<llama_seq_id>::max() }) {
        CHECK(llama_state_seq_set_data(ctx.get(), sequence.data(), sequence.size(), seq) == 0);
        CHECK(state_of(ctx.get()) == state);
    }
    for (const llama_seq_id seq : { -2, N_MAX_SEQ, std::numeric_limits<llama_seq_id>::min(), std::numeric_limits<llama_seq_id>::max() }) {
        CHECK(llama_state_seq_get_size(ctx.get(), seq) == 0);
        CHECK(llama_state_seq_get_data(ctx.get(), place.data(), place.size(), seq) == 0);
    }
    CHECK(llama_state_seq_set_data_ext(ctx.get(), sequence.data(), sequence.size(), 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == 0); // none is there
    CHECK(llama_state_seq_set_data_ext(ctx.get(), sequence.data(), 3, 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) == 0);
    CHECK(state_of(ctx.get()) == state);

    // half a state leaves nothing, of the old text or the new one
    for (const bool seq : { false, true }) {
        const bytes & whole = seq ? sequence : state;
        for (size_t n = 0; n < whole.size(); n += n < 400 ? 7 : whole.size()/9) {
            CHECK(restore(ctx.get(), state) == state.size());
            CHECK(restore(ctx.get(), bytes(whole.begin(), whole.begin() + n), seq) == 0);
            CHECK(is_sound(ctx.get()) && (stats_of(ctx.get()).n_tokens == 0 || state_of(ctx.get()) == state));
        }
    }
    // what is behind it is nobody's
    bytes longer = state;
    longer.resize(state.size() + 100);
    CHECK(restore(ctx.get(), longer) == state.size());

    // of other settings, and of a stock cache; and the other way round
    asymkv_params other = p;
    other.observe = 6;
    const context_ptr few = open_context(model, &other);
    other = p;
    other.per_head = 0;
    const context_ptr flat = open_context(model, &other);
    const context_ptr stock = open_context(model, nullptr);
    read(stock.get(), random_text(ctx.get(), 100, 2));
    const bytes of_stock = state_of(stock.get());
    for (llama_context * x : { few.get(), flat.get(), stock.get() }) {
        CHECK(restore(x, state) == 0 && restore(x, sequence, true) == 0);
        CHECK(llama_memory_seq_pos_max(memory(x), 0) == -1 || state_of(x) == of_stock);
        llama_memory_clear(memory(x), true);
        CHECK(all_finite(read_on(x, random_text(ctx.get(), 50, 3))));
    }
    CHECK(restore(ctx.get(), of_stock) == 0);
    CHECK(is_sound(ctx.get()) && stats_of(ctx.get()).n_tokens == 0);
    read(ctx.get(), random_text(ctx.get(), 300, 4));
    CHECK(is_sound(ctx.get()));
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    be_quiet();

    test_params();
    test_group_without_a_context();
    test_no_cache(nullptr);

    const model_ptr model = open_model(argv[1]);
    test_making(model.get());
    test_cuts(model.get());
    test_sequences(model.get());
    test_states(model.get());
    printf("ok refusals\n");

    asymkv_params p = small_params();
    llama_context_params settings = small_context();
    test_text(model.get(), "per head", p, settings);

    p.per_head = 0;
    settings.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    test_text(model.get(), "per layer, without flash attention", p, settings);

    p = small_params();
    settings = small_context();
    settings.type_k = settings.type_v = GGML_TYPE_Q8_0;
    settings.n_threads = settings.n_threads_batch = 2;
    settings.n_ubatch = 16;
    test_text(model.get(), "quantized, two threads", p, settings);

    settings = small_context();
    p.horizon = 200;
    p.span    = 2*(p.recent + p.room);
    test_text(model.get(), "horizon and compact positions", p, settings);

    for (int32_t score = ASYMKV_SCORE_MASS; score <= ASYMKV_SCORE_KEYDIFF; ++score) {
        p = small_params();
        p.score       = score;
        p.key_weights = score % 4;
        p.seed        = 7;
        if (score == ASYMKV_SCORE_MASS) {
            p.max_cardinality = 5;
            p.decay           = 100.0f;
        }
        test_text(model.get(), ("score " + std::to_string(score)).c_str(), p, settings, false);
    }
    printf("ok all of the C API\n");
    return 0;
}
