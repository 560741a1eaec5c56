"""A conversation without a terminal: what is read, what is remembered, and what can be taken back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tiny_models import MERGED

from asymkv_gguf import AsymKVConfig, Llama, ModelNotFoundError, SessionError, UnsupportedError, recall, save_session
from asymkv_gguf.chat.conversation import Conversation
from asymkv_gguf.chat.prompt import Prompt, n_system_tokens, render
from asymkv_gguf.chat.sinks import with_protected_system
from asymkv_gguf.chat.text_stream import TextStream
from asymkv_gguf.chat.token_log import TokenLog
from asymkv_gguf.cli.demo import MODEL
from asymkv_gguf.preview import memory_needed, vocabulary

CONFIG = AsymKVConfig(budget=192, chunk=64)
GREEDY = {"temperature": 0.0}
ADA, ANNA = "The code of Ada Saunders is", "The code of Anna Reed is"
FACTS = f"{ADA} coral. {ANNA} amber. The old song of the porter was heard at the inn.\n\n"


def open_model(config: AsymKVConfig | bool = CONFIG, n_ctx: int = 4096) -> Llama:
    return Llama(str(MODEL), asymkv=config, n_ctx=n_ctx, n_threads=1, n_threads_batch=1, verbose=False)


@pytest.fixture
def llm() -> Iterator[Llama]:
    llm = open_model()
    yield llm
    llm.close()


def say(conversation: Conversation, text: str) -> str:
    return "".join(conversation.say(text))


def first_word(answer: str) -> str:
    return answer.split()[0].rstrip(".")


def test_facts_of_the_first_message_are_recalled_after_several_compressions(llm: Llama) -> None:
    document = recall.make_document(5, tokens=1500)
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=4)
    first, *others = document.questions
    answers = [first_word(say(conversation, document.text + first.prompt))]
    assert llm.asymkv_stats().compressions >= 5
    for question in others:
        answers.append(first_word(say(conversation, question.prompt)))
        n_new = len(llm.tokenize(question.prompt.encode(), add_bos=False))
        assert conversation.turn.n_read <= n_new + 2  # nothing is read twice: a line break, a token that was sampled last
    assert answers == [question.answer for question in document.questions]
    assert llm.asymkv_stats().slots <= llm.asymkv_stats().capacity < conversation.turn.n_prompt / 5


def test_the_stock_cache_holds_the_same_conversation() -> None:
    llm = open_model(False)
    conversation = Conversation(llm, system="The harbour was calm.", sampling=GREEDY, max_tokens=1)
    say(conversation, FACTS)
    assert first_word(say(conversation, ANNA)) == "amber"
    assert conversation.turn.n_kept > 20
    llm.close()


def test_a_message_that_was_taken_back_and_said_again_gets_the_same_answer(llm: Llama) -> None:
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=8)
    say(conversation, recall.make_document(5, tokens=600).text + FACTS)
    first = say(conversation, ADA)
    compressions = llm.asymkv_stats().compressions
    assert conversation.undo() == ADA
    assert say(conversation, ADA) == first
    assert first_word(first) == "coral"
    assert llm.asymkv_stats().compressions == compressions  # the text was not read again
    assert conversation.turn.n_read <= 7
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2


def test_everything_can_be_taken_back_until_nothing_is_left(llm: Llama) -> None:
    conversation = Conversation(llm, system="The harbour was calm.", sampling=GREEDY, max_tokens=2)
    for text in (FACTS, ADA, ANNA):
        say(conversation, text)
    assert [conversation.undo() for _ in range(4)] == [ANNA, ADA, FACTS, None]
    assert conversation.messages == [{"role": "system", "content": "The harbour was calm."}]


def test_another_answer_reads_nothing_and_differs_when_sampled(llm: Llama) -> None:
    conversation = Conversation(llm, sampling={"temperature": 1.5, "seed": 3}, max_tokens=12)
    first = say(conversation, FACTS)
    second = "".join(conversation.regenerate())
    assert conversation.turn.n_read <= 2  # the last tokens, for their logits
    assert first != second
    assert [message["content"] for message in conversation.messages] == [FACTS, second]
    again = Conversation(llm, sampling={"temperature": 1.5, "seed": 3}, max_tokens=12)
    assert say(again, FACTS) == first  # a seed makes a run repeatable


def test_another_answer_needs_a_first_one(llm: Llama) -> None:
    with pytest.raises(ValueError, match="there is no answer yet that could be made again"):
        next(Conversation(llm).regenerate())


def test_a_message_that_is_too_long_is_taken_back_and_says_what_to_do() -> None:
    llm = open_model(n_ctx=256)
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=2)
    say(conversation, FACTS)
    with pytest.raises(ValueError, match=r"tokens, and n_ctx is 256; raise it \(-c"):
        say(conversation, FACTS * 20)
    assert len(conversation.messages) == 2
    assert first_word(say(conversation, ANNA)) == "amber"
    llm.close()


def test_a_stopped_answer_is_kept_and_the_conversation_goes_on(llm: Llama) -> None:
    conversation = Conversation(llm, sampling=GREEDY)
    pieces = []
    for piece in conversation.say(FACTS + "The train"):
        pieces.append(piece)
        if len(pieces) == 5:
            conversation.stop()
    assert conversation.turn.finish_reason == "stopped"
    assert conversation.turn.n_written == 5
    assert conversation.messages[-1]["content"] == "".join(pieces)
    n_tokens = conversation.turn.n_prompt + 5
    answer = conversation.say(ADA)
    assert next(answer) == " coral"
    assert conversation.turn.n_kept in (n_tokens - 1, n_tokens)  # the last token was sampled, not read
    answer.close()
    assert conversation.messages[-1]["content"] == " coral"  # also when nobody listens any more


def test_a_message_that_is_stopped_while_it_is_read_is_taken_back(llm: Llama) -> None:
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=2)
    say(conversation, FACTS)
    before = [*conversation.messages]
    seen = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))
        conversation.stop()

    conversation.on_progress = on_progress
    assert say(conversation, recall.make_document(1, tokens=600).text) == ""
    assert conversation.turn.finish_reason == "stopped"
    assert len(seen) == 1
    assert conversation.messages == before
    conversation.on_progress = None
    assert first_word(say(conversation, ANNA)) == "amber"


def test_a_template_that_shortens_the_last_answer_cuts_exactly(llm: Llama) -> None:
    """As templates do that drop what the model thought."""
    llm.chat_handler = Jinja2ChatFormatter(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content.split('.')[0] }}{{ '.\\n' }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}",
        eos_token="</s>",
        bos_token="<s>",
    ).to_chat_handler()
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=30)
    answer = say(conversation, recall.make_document(5, tokens=600).text + FACTS + "The train")
    shortened = answer.split(".")[0]
    assert len(shortened) < len(answer) - 20
    compressions = llm.asymkv_stats().compressions
    assert first_word(say(conversation, ADA)) == "coral"
    assert conversation.turn.n_read <= 9
    assert llm.asymkv_stats().compressions == compressions
    expected = render(llm, conversation.messages[:-1]).tokens
    assert llm.input_ids[: len(expected)].tolist() == expected


def test_a_new_system_prompt_is_read_and_old_answers_stay(llm: Llama) -> None:
    conversation = Conversation(llm, system="The harbour was calm.", sampling=GREEDY, max_tokens=1)
    say(conversation, FACTS)
    conversation.set_system("There was fog.")
    assert conversation.system == "There was fog."
    assert first_word(say(conversation, ADA)) == "coral"
    conversation.set_system(None)
    assert conversation.system is None
    assert conversation.n_turns == 2


def test_a_template_without_a_place_for_system_prompts_says_so(llm: Llama) -> None:
    llm.chat_handler = Jinja2ChatFormatter(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages }}",
        eos_token="",
        bos_token="",
    ).to_chat_handler()
    conversation = Conversation(llm)
    with pytest.raises(ValueError, match="System role not supported"):
        conversation.set_system("Be brief.")
    assert conversation.messages == []
    llm.chat_handler = Jinja2ChatFormatter(
        "{{ 1 / 0 }}{{ messages.nothing.more }}", eos_token="", bos_token=""
    ).to_chat_handler()
    with pytest.raises(ValueError, match="recall.gguf cannot spell this conversation"):
        say(conversation, "x")


def test_a_model_without_a_template_takes_llama_cpps_default(tiny: Callable[[str], Path]) -> None:
    llm = vocabulary(str(tiny("llama")))
    assert render(llm, [{"role": "user", "content": "Hello"}]).text.endswith("<s>[INST]Hello  [/INST]")


def test_a_conversation_goes_on_from_a_file_as_if_it_had_never_stopped(llm: Llama, tmp_path: Path) -> None:
    document = recall.make_document(5, tokens=600)
    file = tmp_path / "session"
    conversation = Conversation(llm, system="The harbour was calm.", sampling=GREEDY, max_tokens=9)
    say(conversation, document.text + document.questions[0].prompt)
    n_bytes = conversation.save(file)
    assert n_bytes == file.stat().st_size
    expected = [say(conversation, question.prompt) for question in document.questions]
    n_read = conversation.turn.n_read
    tomorrow = open_model()
    other = Conversation(tomorrow, sampling=GREEDY, max_tokens=9)
    session = other.load(file)
    assert session.n_tokens == tomorrow.n_tokens > 600
    assert [say(other, question.prompt) for question in document.questions] == expected
    assert other.turn.n_read == n_read < 20
    assert other.messages == conversation.messages
    tomorrow.close()


def test_a_template_that_tells_the_date_tells_the_same_one_tomorrow(llm: Llama, tmp_path: Path) -> None:
    llm.chat_handler = Jinja2ChatFormatter(
        "{{ bos_token }}{{ strftime_now('%Y-%m-%d') }} {% for m in messages %}{{ m.content }}{% endfor %}",
        eos_token="</s>",
        bos_token="<s>",
    ).to_chat_handler()
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=1)
    conversation.began = datetime(2020, 2, 29)
    say(conversation, FACTS)
    conversation.save(tmp_path / "session")
    other = Conversation(llm, sampling=GREEDY, max_tokens=1)
    other.load(tmp_path / "session")
    say(other, "More.")
    assert b"<s>2020-02-29 The code" in llm.detokenize(llm.input_ids[:30].tolist(), special=True)
    assert other.turn.n_read < 10
    other.clear()
    assert other.began.year > 2020
    today = render(llm, [{"role": "user", "content": "x"}]).text
    assert today == f"<s>{datetime.now():%Y-%m-%d} x"


def test_a_session_of_another_program_holds_no_conversation(llm: Llama, tmp_path: Path) -> None:
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=1)
    say(conversation, FACTS)
    log = {"text": "", "tokens": [], "ends": [1]}
    wrong: list[dict[str, Any]] = [{}, {"messages": 1}, {"messages": [{}], "log": {}}, {"messages": [], "log": log}]
    for extra in wrong:
        save_session(llm, tmp_path / "session", extra=extra)
        n_tokens = llm.n_tokens
        with pytest.raises(SessionError, match="holds no conversation" if extra else "holds a text, and no conversation"):
            conversation.load(tmp_path / "session")
        assert llm.n_tokens == n_tokens
    assert first_word(say(conversation, ADA)) == "coral"


def test_a_long_answer_is_taken_back_from_a_checkpoint(llm: Llama) -> None:
    """The answer has outgrown the recent window, so the cut lies where slots may be merged."""
    reread: list[tuple[int, int]] = []
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=2)
    conversation.on_reread = lambda n_again, n_kept: reread.append((n_again, n_kept))
    say(conversation, recall.make_document(5, tokens=1200).text + FACTS + "The train")
    conversation._max_tokens = 300
    first = say(conversation, "The train")
    n_tokens = llm.n_tokens
    assert conversation.turn.n_written == 300
    assert "".join(conversation.regenerate()) == first
    assert conversation.turn.n_read <= 4
    conversation.undo()
    conversation._max_tokens = 2
    assert say(conversation, ANNA).split()[0].rstrip(".") == "amber"
    assert conversation.turn.n_read <= 12
    assert llm.n_tokens < n_tokens
    assert all(n_again <= 3 and n_kept > 1200 for n_again, n_kept in reread)  # the message, not what came before it
    assert llm.n_checkpoints >= 2


def test_a_cut_before_every_checkpoint_says_how_much_is_read_again(llm: Llama) -> None:
    reread: list[tuple[int, int]] = []
    conversation = Conversation(llm, sampling=GREEDY, max_tokens=1)
    say(conversation, recall.make_document(5, tokens=600).text + recall.make_document(6, tokens=600).text)
    conversation.on_reread = lambda n_again, n_kept: reread.append((n_again, n_kept))
    conversation.undo()
    say(conversation, recall.make_document(5, tokens=600).text + ADA)
    assert len(reread) == 1
    assert conversation.turn.n_reread == reread[0][0] > 500
    assert reread[0][1] == 0


# tokens and text


def test_an_answer_in_other_tokens_than_the_tokenizers_is_not_read_again(llm: Llama) -> None:
    log = TokenLog()
    first = render(llm, [{"role": "user", "content": ADA}])
    in_bytes = [token for byte in b" coral" for token in llm.tokenize(bytes([byte]), add_bos=False)]
    assert llm.detokenize(in_bytes) == b" coral"
    log.add(first, " coral", in_bytes, True)
    messages = [{"role": "user", "content": ADA}, {"role": "assistant", "content": " coral"}, {"role": "user", "content": ANNA}]
    following = render(llm, messages)
    spelled = log.spelled(following, llm)
    assert spelled.text == following.text
    assert spelled.tokens[: len(first.tokens) + 6] == [*first.tokens, *in_bytes]
    assert len(spelled.tokens) == len(following.tokens) + 5
    log.add(spelled, " amber", llm.tokenize(b" amber", add_bos=False), True)
    log.drop()
    assert log.spelled(following, llm).tokens == spelled.tokens
    log.drop()
    assert log.spelled(following, llm).tokens == following.tokens


def test_an_answer_whose_tokens_say_more_than_its_text_is_spelled_by_the_tokenizer(llm: Llama) -> None:
    log = TokenLog()
    prompt = Prompt("<s>a", llm.tokenize(b"a"), ())
    log.add(prompt, " coral", [1, 2, 3], False)
    following = Prompt("<s>a coral", llm.tokenize(b"a coral"), ())
    assert log.spelled(following, llm) == following


def test_characters_that_come_in_parts_are_shown_when_they_are_whole() -> None:
    stream = TextStream()
    assert [stream.push(bytes([byte])) for byte in "é€😀".encode()] == ["", "é", "", "", "€", "", "", "", "😀"]
    assert stream.finish() == ""
    assert stream.exact
    assert stream.push(b"\xf0\x9f") == ""
    assert stream.finish() == "\ufffd"
    assert not stream.exact


def test_a_text_that_ends_the_answer_is_never_shown() -> None:
    stream = TextStream(["</s>", "User:"])
    assert [stream.push(piece) for piece in (b"a <", b"b", b" </", b"s", b"> more")] == ["a ", "<b", " ", "", ""]
    assert stream.stopped
    assert (stream.finish(), stream.text) == ("", "a <b ")
    unfinished = TextStream(["</s>"])
    assert (unfinished.push(b"x </"), unfinished.finish(), unfinished.exact) == ("x ", "</", True)


# before the weights are loaded


def test_the_system_prompt_lies_in_the_sinks() -> None:
    words = vocabulary(str(MODEL))
    system = "The harbour was calm that week."
    n_tokens = n_system_tokens(words, system)
    config, notice = with_protected_system(CONFIG, words, system)
    assert notice is None
    assert n_tokens <= config.sinks < n_tokens + 8
    llm = open_model(config)
    conversation = Conversation(llm, system=system, sampling=GREEDY, max_tokens=2)
    say(conversation, recall.make_document(1, tokens=600).text)
    slots = llm.asymkv_slots(0, 0)
    assert slots["cardinality"][:n_tokens].tolist() == [1] * n_tokens
    assert slots["first"][:n_tokens].tolist() == list(range(n_tokens))
    assert llm.asymkv_stats().compressions
    llm.close()


def test_a_system_prompt_that_is_longer_than_half_of_the_budget_says_what_is_protected() -> None:
    config, notice = with_protected_system(CONFIG, vocabulary(str(MODEL)), "The harbour was calm. " * 40)
    assert config.sinks == 96
    assert notice is not None
    assert "of which the first 96 are never merged; raise --asymkv-budget to" in notice


@pytest.mark.parametrize("name", sorted(MERGED))
@pytest.mark.parametrize("flash_attn", [True, False])
def test_the_memory_is_known_before_the_weights_are_loaded(tiny: Callable[[str], Path], name: str, flash_attn: bool) -> None:
    path = str(tiny(name))
    needed = memory_needed(path, CONFIG, n_ctx=1024, flash_attn=flash_attn)
    llm = Llama(path, asymkv=CONFIG, n_ctx=1024, flash_attn=flash_attn, n_threads=1, verbose=False)
    stats = llm.asymkv_stats()
    assert (needed.kv_bytes, needed.slots) == (stats.kv_bytes, stats.capacity)
    llm.close()


def test_the_memory_of_a_model_that_cannot_be_merged_is_refused_as_the_model_is(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        memory_needed("no/such.gguf", CONFIG, n_ctx=1024)
    with pytest.raises(UnsupportedError, match="ALiBi"):
        memory_needed(str(tiny("bloom")), CONFIG, n_ctx=1024)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_order_of_turns_the_next_answer_is_that_of_a_fresh_conversation(seed: int) -> None:
    """Nothing is merged here, so that the answers can be compared token by token."""
    rng = random.Random(seed)
    llm, other = open_model(AsymKVConfig(budget=2048)), open_model(AsymKVConfig(budget=2048))
    conversation = Conversation(llm, system="The harbour was calm.", sampling=GREEDY)
    facts = recall.make_facts(rng, 12)
    for _ in range(25):
        conversation._max_tokens = rng.choice((1, 3, 20, 90))
        action = rng.choice(("say", "say", "ask", "undo", "regenerate", "stop", "leave"))
        if action == "say":
            say(conversation, rng.choice(facts).statement)
        elif action == "ask":
            say(conversation, rng.choice(facts).statement[:-7] + "€ é 😀")
        elif action == "undo":
            conversation.undo()
        elif action == "regenerate" and conversation.n_turns:
            "".join(conversation.regenerate())
        elif action in ("stop", "leave"):
            answer = conversation.say(rng.choice(facts).statement + " The")
            for _ in range(rng.randrange(1, 4)):
                next(answer, None)
            if action == "stop":
                conversation.stop()
                "".join(answer)
            answer.close()
        assert [message["role"] for message in conversation.messages[1:]] == ["user", "assistant"] * conversation.n_turns
    conversation._max_tokens = 8
    fresh = Conversation(other, sampling=GREEDY, max_tokens=8)
    fresh.messages = [dict(message) for message in conversation.messages]
    question = f"{facts[0].statement}\n{facts[0].statement.rsplit(' ', 1)[0]}"
    assert say(conversation, question) == say(fresh, question)
    assert llm.n_tokens > 100
    llm.close()
    other.close()
