"""The recall task: English-looking documents that state codes of persons and ask for them later.

The small model that ships with this package (``data/recall.gguf``) is trained on this text,
so the demo and the tests can ask it questions whose answers are known exactly.

A document states each person's code once::

    The code of Anna Reed is amber.

followed by filler sentences (weather, harbour, market, ...) and by *mentions* that recall a
person's code in passing (``Anna Reed wrote amber on the old door.``).  A question repeats the
words of the statement up to the code::

    The code of Anna Reed is

and the answer is one word, one token.  Every word of the task is one token of
:func:`vocabulary`; any other text falls back to bytes, as in GPT-2.

Names are split by a fixed hash of the name pair: the persons of the held-out split never occur
in a training document, so a right answer about one of them was read from the context.

Everything here is deterministic for a given seed and needs the standard library only.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

__all__ = [
    "BOS",
    "CODES",
    "EOS",
    "FIRST_NAMES",
    "LAST_NAMES",
    "PAD",
    "Document",
    "Fact",
    "Person",
    "Question",
    "Split",
    "byte_to_unicode",
    "detokenize",
    "filler_sentence",
    "is_held_out",
    "make_document",
    "make_facts",
    "make_questions",
    "tokenize",
    "vocabulary",
]

Split = Literal["train", "held-out"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# --- word lists --------------------------------------------------------------------------

FIRST_NAMES: tuple[str, ...] = _words(
    """
    Ada Adam Agnes Alan Albert Alice Alma Amos Amy Anders Andrea Anna Anton Arthur Astrid August
    Barbara Basil Beatrice Ben Bernard Bertha Bianca Boris Brian Bruno Carla Carmen Caspar Cecil
    Celia Clara Claude Conrad Cora Cyril Dana Daniel Daphne David Diana Dora Doris Edgar Edith
    Edmund Elena Elias Ella Elsa Emil Emma Enid Eric Esther Eva Felix Fiona Flora Frank Freda
    Gloria Gregor Greta Gustav Hannah Harold Harriet Hector Helen Henry Hilda Hugo Ida Igor Ingrid
    Irene Isaac Ivan Jane Jasper Joan Johan Julia Julian Karin Karl Kate Klara Lars Laura Leo Lena
    Linda Louis Lucas Lucy Magnus Marcus Maria Martha Martin Maud Max Mira Monica Nadia Nathan
    Nina Nora Norman Olaf Olga Oscar Oswald Otto Paula Peter Petra Philip Ralph Rachel Robert Rosa
    Rupert Ruth Samuel Sara Simon Sofia Stella Sven Sylvia Theodor Thomas Tilda Tobias Ulla Ursula
    Vera Victor Viola Walter Wanda Wilma Yvonne
    """
)

LAST_NAMES: tuple[str, ...] = _words(
    """
    Abbott Adler Ainsley Aldridge Archer Atwood Bailey Baker Barlow Barrett Baxter Becker Bennett
    Berger Bishop Blake Bowen Bradley Brandt Briggs Burke Burton Calder Cameron Carlson Carver
    Chandler Clarke Coleman Collins Cooper Corbett Crane Crawford Dalton Dawson Decker Dixon
    Donovan Douglas Drake Dunbar Duncan Eaton Edwards Ellis Emerson Erikson Evans Fairfax Farrell
    Fenton Fischer Fleming Fletcher Forster Foster Franklin Fraser Garner Gibson Gilbert Goodwin
    Gordon Graham Granger Griffin Haines Hansen Harding Hartley Hayes Henderson Hoffman Holland
    Holmes Hopkins Howard Hudson Hughes Irving Jackson Jansen Jarvis Jenkins Jensen Johnson Keller
    Kendall Kennedy Kessler Kramer Lambert Larsen Lawson Lehman Lindberg Logan Lowell Lyndon Madsen
    Marlow Marshall Mason Maxwell Meyer Miller Mitchell Monroe Morgan Morris Murphy Murray Nelson
    Newman Nichols Nolan Norris Novak Olsen Osborne Palmer Parker Parsons Patterson Payne Perkins
    Porter Powell Preston Quinn Ramsey Reed Reynolds Richter Roberts Rogers Sanders Saunders
    Schmidt Shelby Sheldon Sinclair Snyder Sommer Spencer Stanton Stevens Stewart Sutton Taylor
    Thornton Tucker Turner Vaughn Vogel Wagner Walker Warren Watson Weaver Webster Weber Wells
    Whitman Wilson Winter Wright Young
    """
)

CODES: tuple[str, ...] = _words(
    """
    acorn agate alder almond amber anchor antler anvil apricot arrow aspen aster badger bamboo
    banjo basalt beacon beaver bell birch bison bobcat bonnet bramble brass bronze buckle bugle
    butter button cactus camel candle canoe canyon caramel cedar cello cherry chestnut cinder
    cinnamon clover cobalt coconut comet compass copper coral cotton cougar cradle crane cricket
    crimson crystal cypress daisy dolphin domino donkey dragon drum eagle ebony echo eclipse elder
    ember emerald falcon fennel fern ferret fiddle flamingo flint flute forest fossil fox garlic
    garnet gazelle geyser ginger glacier goblet gondola granite grape gravel hammer hamster
    harp harvest hawk hazel heather hedgehog helmet heron hickory honey hornet indigo iris iron
    island ivory ivy jackal jade jaguar jasmine jasper jungle juniper kernel kestrel kettle koala
    lagoon lantern lark laurel lavender lemon leopard lichen lilac lily linen lion lizard llama
    lobster locket lotus lynx magnet magnolia mango maple marble marigold marlin meadow melon
    mercury meteor mint mirror mole monsoon moss mulberry mustard myrtle nectar needle nettle
    nickel nutmeg oak oasis oboe ocean olive onyx opal orange orbit orchid osprey otter owl
    oyster panda panther papaya parrot parsley peach pearl pebble pelican penguin pepper pigeon
    pillow pine piston planet platinum plum poplar poppy prism pumpkin puzzle pyramid quail quartz
    rabbit raccoon radish raven ribbon robin rocket rosemary ruby saddle saffron salmon sandal
    sapphire satin scarlet seal sequoia shadow silver sparrow spruce squirrel sulfur sunset
    swallow tango teapot thistle thunder tiger timber topaz toucan trumpet tulip tundra turkey
    turnip turtle umber vanilla velvet violet viper walnut walrus willow wolf zebra zenith zinc
    """
)

# Slot fillers of the templates.  None of these words is a code or a name: what a code is
# can be told from the token alone, so that filler never looks like an answer.
_SLOTS: dict[str, tuple[str, ...]] = {
    "adj": _words(
        """
        new small large quiet busy narrow wide cold warm muddy crowded plain painted broken
        heavy bright dusty wet dry grey brown pale dark low tall clean rusty wooden faded
        """
    ),
    "thing": _words(
        """
        door wall table box crate barrel letter map ledger ticket card label board sign page
        envelope notebook window gate bench basket sack trunk drawer cabinet folder parcel slate
        """
    ),
    "place": _words(
        """
        harbour market station library mill bakery school church bridge office workshop garden
        tower warehouse inn museum theatre hospital farm quarry brewery pier square hall depot
        """
    ),
    "role": _words(
        """
        captain clerk baker porter guard teacher doctor fisherman miller driver painter gardener
        librarian sailor cook mason tailor carpenter farmer postman keeper nurse smith merchant
        """
    ),
    "goods": _words(
        """
        bread apples cheese fish wool coal rope salt flour soap paper nails glass leather wine tea
        coffee sugar rice potatoes onions cloth oil bricks sand hay corn eggs milk boots
        """
    ),
    "weather": _words(
        """
        rain wind fog snow frost hail sleet mist sunshine drizzle haze
        """
    ),
    "time": _words(
        """
        morning evening afternoon night week month spring summer autumn day weekend season
        """
    ),
    "went": _words(
        """
        walked ran drove hurried returned wandered marched rode climbed sailed
        """
    ),
    "did": _words(
        """
        sold bought carried counted stored lifted weighed packed ordered moved loaded checked
        wanted brought unpacked sorted delivered
        """
    ),
    "mood": _words(
        """
        calm tired cheerful silent nervous patient curious careful hungry friendly proud sleepy
        """
    ),
    "num": _words(
        """
        two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty
        """
    ),
    "road": _words("road street lane path river canal railway coast valley hill"),
    "animal": _words("dog cat horse goat cow mule sheep goose duck hen"),
    "wrote": _words(
        """
        wrote typed said used entered whispered repeated printed shouted chose gave spelled
        """
    ),
}

# Templates without names or codes.  Slots are always preceded by a space.
_FILLER: tuple[str, ...] = (
    "The {adj} {place} was {mood} that {time}.",
    "The {role} {did} {goods} at the {adj} {place}.",
    "There was {weather} over the {place} all {time}.",
    "A {adj} {thing} stood near the {place}.",
    "The {role} {went} along the {adj} {road} to the {place}.",
    "In the {time} the {role} {did} {num} sacks of {goods}.",
    "Nobody at the {place} had seen so much {weather} before.",
    "The price of {goods} rose again this {time}.",
    "The price of {goods} at the {place} fell by {num} pence.",
    "Every {time} a {adj} {animal} slept beside the {thing}.",
    "The {animal} of the {role} {went} down the {road}.",
    "It took {num} men to move the {adj} {thing}.",
    "Later the {role} and the {role} {went} home.",
    "After the {weather} the {road} was {adj} and {adj}.",
    "The {role} was {mood} because the {thing} was {adj}.",
    "Some {goods} and some {goods} lay on the {adj} {thing}.",
    "The train to the {place} was late by {num} minutes.",
    "At noon the {role} opened the {adj} {thing}.",
    "People said that the {place} would soon be {adj}.",
    "The {role} never {did} {goods} in the {weather}.",
    "On the way to the {place} they met a {mood} {role}.",
    "The {place} by the {road} closed early this {time}.",
    "A {mood} {role} asked for {goods} and {goods}.",
    "The windows of the {place} were {adj} from the {weather}.",
    "They left {num} boxes of {goods} behind the {place}.",
    "The {adj} {road} runs from the {place} to the {place}.",
    "Children played with a {animal} in front of the {place}.",
    "By the end of the {time} the {weather} had stopped.",
    "The {role} kept a {adj} {thing} under the {thing}.",
    "Two carts with {goods} waited at the {adj} {place}.",
    "The {role} looked at the {thing} and felt {mood}.",
    "Behind the {place} there is a {adj} {road}.",
    "Only the {role} knew where the {goods} came from.",
    "For {num} days the {place} had no {goods}.",
    "The {weather} came from the {road} in the {time}.",
    "When the {role} arrived, the {place} was {adj}.",
    "Then the {role} cleaned the {thing} of the {place}.",
    "The old song of the {role} was heard at the {place}.",
    "With the {goods} came {num} letters for the {role}.",
    "Our {role} likes {goods} more than {goods}.",
)

_STATEMENT = "The code of {first} {last} is {code}."
_QUESTION = "The code of {first} {last} is"

# Sentences that recall the code of a person stated earlier.  The name comes before the code,
# so that a reader can know the code at this point.
_MENTIONS: tuple[str, ...] = (
    "Again {first} {last} {wrote} {code} at the {place}.",
    "Then {first} {last} {wrote} {code} on the {adj} {thing}.",
    "This {time} {first} {last} {wrote} {code} once more.",
    "The {role} heard that {first} {last} {wrote} {code} there.",
    "At the {place} {first} {last} {wrote} {code} for the {role}.",
    "The {thing} of {first} {last} says {code} in {adj} letters.",
    "In the {weather} {first} {last} {wrote} {code} twice.",
    "The {role} reminded {first} {last} of {code} that {time}.",
    "Yes, the code of {first} {last} is {code}.",
)

# Sentences that name some code stated earlier without its person.  The best guess here is
# "any code so far", which teaches attention to all codes alike, not only to the one asked for.
_GENERAL: tuple[str, ...] = (
    "One code on the {thing} was {code}.",
    "The {role} read the code {code} aloud.",
    "Among the codes on the list was {code}.",
    "Somebody at the {place} had the code {code}.",
)

_SLOT = re.compile(r"\{(\w+)\}")
PARAGRAPH = "\n\n"

# --- persons, facts, documents -------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """A first and a last name, one token each."""

    first: str
    last: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class Fact:
    """A person and the code that belongs to that person in one document."""

    person: Person
    code: str

    @property
    def statement(self) -> str:
        return _STATEMENT.format(first=self.person.first, last=self.person.last, code=self.code)


@dataclass(frozen=True)
class Question:
    """The words of a statement up to the code (`prompt`), and the code (`answer`).

    The prompt follows the document's text directly; the model answers with the token
    ``" " + answer``.  `distance` counts tokens from the code in the statement to the point
    where it is asked for, if this question comes first after the document.
    """

    prompt: str
    answer: str
    fact: Fact
    distance: int = 0

    @property
    def answered(self) -> str:
        """The question with its answer, as a line that further questions can follow."""
        return f"{self.prompt} {self.answer}.\n"


@dataclass(frozen=True)
class Document:
    """A text that ends with a paragraph break, and what can be asked about it.

    `facts` are stated in the first part and never mentioned again; `questions` asks for each of
    them.  `mentioned` are the facts that the rest of the text keeps mentioning.
    """

    text: str
    facts: tuple[Fact, ...]
    mentioned: tuple[Fact, ...]
    questions: tuple[Question, ...] = field(default=())

    @property
    def n_tokens(self) -> int:
        """Tokens of the text, without the begin-of-text token."""
        return len(tokenize(self.text))


def is_held_out(person: Person) -> bool:
    """Whether this name pair is reserved for tests: one pair in eight, by a fixed hash."""
    return zlib.crc32(person.name.encode()) % 8 == 0


def make_facts(rng: random.Random, n: int, split: Split = "held-out") -> list[Fact]:
    """`n` facts with distinct codes and distinct name pairs, all from one split.

    Last names are distinct too; first names may repeat, so a question needs both names only
    sometimes, as in real lists of people.
    """
    wanted = split == "held-out"
    codes = rng.sample(CODES, n)
    lasts = rng.sample(LAST_NAMES, n)
    facts = []
    for last, code in zip(lasts, codes, strict=True):
        person = Person(rng.choice(FIRST_NAMES), last)
        while is_held_out(person) != wanted:
            person = Person(rng.choice(FIRST_NAMES), last)
        facts.append(Fact(person, code))
    return facts


def _fill(rng: random.Random, template: str, fact: Fact | None = None) -> str:
    def word(match: re.Match[str]) -> str:
        slot = match.group(1)
        if fact is not None:
            if slot == "first":
                return fact.person.first
            if slot == "last":
                return fact.person.last
            if slot == "code":
                return fact.code
        return rng.choice(_SLOTS[slot])

    return _SLOT.sub(word, template)


def filler_sentence(rng: random.Random) -> str:
    """A sentence without a name or a code."""
    return _fill(rng, rng.choice(_FILLER))


def make_document(
    seed: int | random.Random,
    *,
    tokens: int = 1900,
    facts: int = 10,
    mentioned: int = 6,
    mention_every: int = 40,
    head: float = 0.25,
    split: Split = "held-out",
) -> Document:
    """A document of at most `tokens` tokens (begin-of-text and the questions not counted).

    The first part, about `head` of the text, states `facts` facts that are asked for later and
    never mentioned again, among filler and the first of `mentioned` other facts.  The rest is
    filler with the remaining statements and, about every `mention_every` tokens, a mention.
    """
    if tokens < _length(_STATEMENT) * (facts + mentioned):
        raise ValueError(f"{facts + mentioned} statements do not fit into {tokens} tokens")
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)
    everyone = make_facts(rng, facts + mentioned, split)
    asked, others = everyone[:facts], everyone[facts:]

    sentences: list[tuple[str, Fact | None]] = []
    used = 0

    def add(sentence: str, fact: Fact | None = None) -> None:
        nonlocal used
        used += _length(sentence)
        sentences.append((sentence, fact))

    # The part before the middle: every asked fact and half of the others, in random order.
    early = asked + others[: (len(others) + 1) // 2]
    rng.shuffle(early)
    late = others[(len(others) + 1) // 2 :]
    known: list[Fact] = []
    cost = _length(_STATEMENT)
    spare = head * tokens - cost * len(early)
    for fact in early:
        # Spread the filler of this part over the gaps between its statements.
        gap = rng.uniform(0.0, 2.0) * max(spare, 0.0) / max(len(early), 1)
        start = used
        while used - start < gap and used + cost * (len(early) - len(known)) < tokens - 24:
            add(_fill(rng, rng.choice(_FILLER)))
        add(fact.statement, fact)
        known.append(fact)
    mentionable = [fact for fact in known if fact in others]

    # The middle: filler, mentions, and the late statements spread over its first half.
    left = tokens - used
    late_at = sorted(used + rng.uniform(0.0, 0.5) * left for _ in late)
    next_mention = used + rng.uniform(0.5, 1.5) * mention_every
    while True:
        if late and used >= late_at[0]:
            late_at.pop(0)
            fact = late.pop(0)
            sentence, shown = fact.statement, fact
            mentionable.append(fact)
        elif mentionable and used >= next_mention:
            next_mention += rng.uniform(0.5, 1.5) * mention_every
            fact = rng.choice(mentionable)
            template = _GENERAL if rng.random() < 0.2 else _MENTIONS
            sentence, shown = _fill(rng, rng.choice(template), fact), None
        else:
            sentence, shown = _fill(rng, rng.choice(_FILLER)), None
        if used + _length(sentence) > tokens:
            break
        add(sentence, shown)

    # Paragraphs of three to seven sentences; the break is part of the full stop's token.
    parts: list[str] = []
    at: dict[Fact, int] = {}
    position = 0
    until_break = rng.randint(3, 7)
    for index, (sentence, shown_fact) in enumerate(sentences):
        position += _length(sentence)
        if shown_fact is not None:
            at[shown_fact] = position - 2  # the code is followed by the full stop only
        parts.append(sentence)
        until_break -= 1
        if index + 1 == len(sentences) or until_break == 0:
            parts.append(PARAGRAPH)
            until_break = rng.randint(3, 7)
        else:
            parts.append(" ")
    text = "".join(parts)
    asked_at = position + _length(_QUESTION)
    questions = tuple(Question(q.prompt, q.answer, q.fact, asked_at - at[q.fact]) for q in make_questions(rng, asked))
    return Document(text, tuple(asked), tuple(fact for fact in others if fact in at), questions)


def make_questions(rng: random.Random, facts: Sequence[Fact]) -> list[Question]:
    """One question for each fact, in random order (distances not filled in)."""
    questions = [Question(_QUESTION.format(first=fact.person.first, last=fact.person.last), fact.code, fact) for fact in facts]
    rng.shuffle(questions)
    return questions


# --- tokens --------------------------------------------------------------------------------

PAD, BOS, EOS = "<pad>", "<s>", "</s>"

# The pre-tokeniser that llama.cpp applies for `tokenizer.ggml.pre = llama-bpe`.  `re` has no
# \p{L}; `[^\W\d_]` differs from it for a few non-ASCII digits only.
_PIECES = re.compile(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
    r"|(?:[^\r\n\w]|_)?[^\W\d_]+"
    r"|\d{1,3}"
    r"| ?(?:[^\s\w]|_)+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def _length(text: str) -> int:
    # Every piece of generated text is one token; a slot such as `{code}` must not be counted
    # as braces, and a leading or trailing space never changes the count.
    return len(_PIECES.findall(_SLOT.sub("x", text)))


@lru_cache(maxsize=1)
def byte_to_unicode() -> dict[int, str]:
    """GPT-2's map from bytes to printable characters, in which its vocabulary is written."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(0x100 + len(table) - len(printable))
    return table


def _encode(piece: str) -> str:
    table = byte_to_unicode()
    return "".join(table[byte] for byte in piece.encode())


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """All tokens in the order of their ids, in GPT-2's byte-to-unicode spelling.

    Three special tokens, 256 bytes, then whole words and punctuation: words with their leading
    space, and those that can open a paragraph without it as well.
    """
    pieces: set[str] = {".", ",", "?", "!", ".\n", ".\n\n", "\n", "\n\n", "  "}
    for template in (*_FILLER, *_MENTIONS, *_GENERAL, _STATEMENT):
        for literal in _SLOT.split(template)[::2]:
            literal = literal.rstrip(" ")
            pieces.update(_PIECES.findall(literal))
        pieces.update(_PIECES.findall(" " + _SLOT.sub("", template).strip()))
    for words in (FIRST_NAMES, LAST_NAMES, CODES, *_SLOTS.values()):
        pieces.update(" " + word for word in words)
    singles = set(byte_to_unicode().values())
    words_in_order = sorted(_encode(piece) for piece in pieces)
    return (
        PAD,
        BOS,
        EOS,
        *(byte_to_unicode()[byte] for byte in range(256)),
        *(word for word in words_in_order if word not in singles),
    )


@lru_cache(maxsize=1)
def _ids() -> dict[str, int]:
    return {token: index for index, token in enumerate(vocabulary())}


@lru_cache(maxsize=65536)
def _piece_ids(piece: str) -> tuple[int, ...]:
    ids = _ids()
    encoded = _encode(piece)
    whole = ids.get(encoded)
    return (whole,) if whole is not None else tuple(ids[char] for char in encoded)


def tokenize(text: str) -> list[int]:
    """Token ids of `text`, without special tokens, as llama.cpp computes them.

    Exact for text of this module and for ASCII; used for training and for counting tokens.
    """
    result: list[int] = []
    for piece in _PIECES.findall(text):
        result.extend(_piece_ids(piece))
    return result


def detokenize(ids: Sequence[int]) -> str:
    """The text of `ids`; special tokens are left out."""
    tokens = vocabulary()
    table = {char: byte for byte, char in byte_to_unicode().items()}
    chars = "".join(tokens[index] for index in ids if index > 2)
    return bytes(table[char] for char in chars).decode(errors="replace")
