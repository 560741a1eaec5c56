"""Words, numbers and codes that a text can hide, drawn from lists of our own."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    """
    able agile amber ample ancient arctic azure bitter blank blunt bold brave brief bright brisk broad bronze calm
    candid careful casual cheap chief clean clear clever coarse cold common copper cosy crisp crude curly damp daring
    dark deep dense distant dizzy double dusty eager early easy elder empty equal exact faint fair famous fancy fast
    feral fierce final firm flat fluent fond formal fragile frank fresh frosty full gentle giant gifted glad golden
    grand grave great green grim handy happy harsh hasty heavy hidden high hollow honest huge humble icy ideal idle
    inner ivory jolly keen kind large late lazy lean level light little lively local lofty lone long loud loyal lucky
    lunar magic main major mellow merry mighty mild minor misty modern modest muddy narrow neat nimble noble novel
    oblong odd olive open outer oval pale patient plain polar polite precise prime proud quaint quick quiet rapid rare
    ready regal rich rigid ripe robust rough round royal rural rustic sacred scarce secret serene severe shallow sharp
    shiny short silent silver simple sleek slender slim slow small smooth snowy sober soft solar solemn solid sour spare
    stark steady steep stern still strict strong sturdy subtle sudden sunny superb sweet swift tall tame tender thick
    thin tidy tiny tough tranquil upper urban vague valid vast velvet violet vital vivid warm wary weary wide wild windy
    wise witty wooden young zesty
    """
)

NOUNS = _words(
    """
    acorn alley altar anchor anvil apron arch arrow atlas attic badge bakery balcony banner barge barn barrel basin
    basket beacon beam bell bench blanket boat bottle boulder bowl branch bridge broom bucket buckle button cabin cable
    camera candle canoe canvas canyon cape carpet castle cavern cellar chain chair chalk chapel chart chest chimney
    circle cliff cloak clock cloud coach coast collar column comet compass copse corner cottage cradle crate creek crown
    curtain dagger dairy desert desk dial ditch dock door drawer drum dune easel engine falcon farm feather fence ferry
    fiddle field flag flask flute forest forge fort fountain frame galley garden gate glacier glove goblet grotto grove
    hamlet hammer harbour harp hatch hedge helmet hill hinge horn hut inlet island jacket jar jetty jewel jug kettle
    kite ladder lagoon lamp lantern lattice lawn ledge lens lever library lighthouse locket loom mallet manor mantle map
    market marsh mask mast meadow mill mine mirror mosaic motor mountain museum needle nest oar oasis orbit orchard
    organ oven paddle palace parade parcel pasture path pebble pedal pendant piano pier pillar pillow planet plaza
    plough pocket pond porch prairie prism puddle pulley quarry quill quilt raft rail ravine reef ribbon ridge river
    road robe rocket roof rope saddle sail satchel saucer scarf school shelf shield ship shore shovel shrine signal
    sledge spade spindle spire spring square stable staff stair station statue stone stool stove stream street summit
    swamp table tailor temple tent terrace throne thunder ticket timber tower town trail trunk tunnel turret valley vase
    vault vessel village vine wagon wall walnut watch well wharf wheel whistle window wing wire yard
    """
)


def word(rng: random.Random) -> str:
    """One of 61,000, such as `amber-lantern`."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def number(rng: random.Random) -> str:
    """Seven digits."""
    return str(rng.randrange(1_000_000, 10_000_000))


def code(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def letters(rng: random.Random, alphabet: str, n: int) -> str:
    return "".join(rng.choices(alphabet, k=n))


KINDS: dict[str, Callable[[random.Random], str]] = {"words": word, "numbers": number, "uuids": code}


def distinct(
    draw: Callable[[random.Random], str], rng: random.Random, n: int, without: frozenset[str] = frozenset()
) -> list[str]:
    """`n` different ones, in the order in which they were drawn."""
    found: dict[str, None] = {}
    while len(found) < n:
        if (drawn := draw(rng)) not in without:
            found[drawn] = None
    return list(found)
