"""Words of what is drawn, and the distributions of what they draw."""

import math

import numpy as np
import pytest
from scipy import stats

from rlsys.envs.randomise import Randomise, words
from rlsys.envs.randomise.physics import Parameter, draw, numbers_at
from rlsys.types import UserError

DISTRIBUTIONS = {  # word -> the distribution function of the numbers that it draws
    "mass=scale:0.5:1.5": lambda x: (x - 0.5) / 1.0,
    "damping=logscale:0.3:3": lambda x: (np.log(x) - math.log(0.3)) / math.log(10),
    "gravity=normal:0.4": lambda x: stats.norm.cdf(x, 0, 0.4),
    "range=add:-0.1:0.3": lambda x: (x + 0.1) / 0.4,
    "length=gaussian:2:0.1": lambda x: stats.norm.cdf(x, 2, 0.1),
}


def draws(text, number):
    parameters = [Parameter(str(i), words.read(text)) for i in range(number)]
    return numbers_at(parameters, draw(parameters, np.random.SeedSequence(7)))


@pytest.mark.parametrize("text", DISTRIBUTIONS)
def test_draws_have_their_distribution(text):
    x = draws(text, 20_000)
    assert x.dtype == np.float64
    assert stats.kstest(x, DISTRIBUTIONS[text]).pvalue > 0.01
    counts, _ = np.histogram(DISTRIBUTIONS[text](x), 50, (0, 1))
    assert counts.sum() == len(x) and stats.chisquare(counts).pvalue > 0.01


def test_draws_of_other_sequences_differ_and_neighbours_are_independent():
    parameters = [Parameter(str(i), words.read("mass=scale:0.5:1.5")) for i in range(2)]
    found = [draw(parameters, np.random.SeedSequence(7, spawn_key=(i,))) for i in range(4_000)]
    pairs = np.array(found)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.05
    assert abs(np.corrcoef(pairs[1:, 0], pairs[:-1, 0])[0, 1]) < 0.05


def test_quantiles_of_the_ends_are_the_ends():
    assert words.quantile("scale", (0.5, 1.5), 0.0) == 0.5
    assert words.quantile("logscale", (0.3, 3.0), 1.0) == 3.0
    assert words.quantile("logscale", (0.25, 4.0), 0.5) == pytest.approx(1.0)
    assert words.quantile("normal", (0.4,), 0.5) == 0.0


def test_a_word_is_read():
    word = words.read("gear@slide,a*=logscale:0.4:2:all")
    assert (word.what, word.names, word.how) == ("gear", ("slide", "a*"), "logscale")
    assert word.numbers == (0.4, 2.0) and word.together
    assert words.describe(word) == "x logU[0.4, 2]"
    assert words.read("damping@robot0:FFJ3=scale:1:2").names == ("robot0:FFJ3",)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("mass", "is not written as"),
        ("mass=1:2", "is not written as"),
        ("mass=triangle:1:2", "there is no 'triangle'"),
        ("mass=scale:1", "scale takes low:high"),
        ("mass=scale:one:2", "are not numbers"),
        ("mass=scale:1:nan", "finite"),
        ("mass=scale:2:1", "low 2 is above high 1"),
        ("mass=scale:-1:1", "must stay positive"),
        ("mass=scale:0:1", "must stay positive"),
        ("damping=scale:-1:1", "0 or more"),
        ("gear=logscale:0:2", "logarithm"),
        ("gravity=normal:-1", "deviation must be 0 or more"),
    ],
)
def test_a_malformed_word_is_one_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        Randomise(physics=("mass=scale:1:2", text))
    assert "\n" not in str(raised.value)


def test_fields():
    assert Randomise().physics_words == ()
    assert Randomise(preset="dactyl").physics_words == words.PHYSICS_OF["dactyl"]
    own = ("mass=scale:1:2",)
    assert Randomise(preset="dactyl", physics=own).physics_words == own
    assert Randomise(preset="dactyl", physics=("none",)).physics_words == ()
    with pytest.raises(UserError, match="variants"):
        Randomise(variants=0)
    with pytest.raises(UserError, match="redraw_steps"):
        Randomise(redraw_steps=-1)
    with pytest.raises(UserError, match=r"12 environments .* 5 variants"):
        Randomise(physics=own, variants=5).check_shares(12)
    Randomise(variants=5).check_shares(12)  # nothing is drawn


@pytest.mark.parametrize(
    "field, needs",
    [
        ({"adapt_threshold_high": 1.0}, {"adapt": True, "adapt_threshold_low": 0.0}),
        ({"adapt_threshold_low": 0.0}, {"adapt": True, "adapt_threshold_high": 1.0}),
        *(
            (field, {"adapt": True, "adapt_threshold_low": 0.0, "adapt_threshold_high": 1.0})
            for field in ({"adapt_episodes": 8}, {"adapt_step": 0.1}, {"boundary_share": 0.4})
        ),
        ({"variants": 4}, {"preset": "dactyl"}),
        ({"redraw_steps": 500}, {"physics": ("mass=scale:1:2",)}),
        ({"sensor_loss_seconds": 2.0}, {"sensor_loss": "0.2"}),
        ({"sensor_loss_seconds": 2.0}, {"preset": "dactyl"}),
    ],
)
def test_a_field_that_would_do_nothing_is_refused(field, needs):
    (name,) = field
    physics = {"physics": ("mass=scale:1:2",)} if "adapt" in needs else {}
    Randomise(**field, **needs | physics).check_used()
    unused = Randomise(**field, physics=("none",) if "adapt" not in needs else None)
    with pytest.raises(UserError, match=f"randomise.{name} .* would do nothing without"):
        unused.check_used()
    with pytest.raises(UserError, match="would do nothing"):
        unused.check_used(Randomise())
    unused.check_used(unused)  # a run goes on as it was
    off = {"preset": "dactyl", "sensor_loss": "0", "physics": ("none",)}
    with pytest.raises(UserError, match="would do nothing"):
        Randomise(**field, **off).check_used()


def test_the_preset_is_the_papers_table():
    """OpenAI et al. 2018, table 1."""
    found = {words.read(x).what: words.read(x) for x in words.PHYSICS_OF["dactyl"]}
    ranges = {what: (x.how, *x.numbers) for what, x in found.items()}
    assert ranges == {
        "size": ("scale", 0.95, 1.05),
        "mass": ("scale", 0.5, 1.5),
        "friction": ("scale", 0.7, 1.3),
        "damping": ("logscale", 0.3, 3.0),
        "gain": ("logscale", 0.75, 1.5),
        "range": ("normal", 0.15),
        "gravity": ("normal", 0.4),
    }
