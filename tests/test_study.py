"""Studies say in a sentence what is wrong with their words, or with a run of theirs."""

import pytest

from experiments import continuous, dactyl, games, kill, overhead, self_play, team_spirit
from experiments.study import rlsys_train
from rlsys.types import UserError


@pytest.mark.parametrize(
    "module", [continuous, dactyl, games, kill, overhead, self_play, team_spirit]
)
def test_a_word_of_only_must_be_known(module):
    config = getattr(module, "Config", None) or module.Options
    with pytest.raises(UserError, match=r"there is no .* 'nothing'"):
        config(only=("nothing",))


def test_a_run_that_fails_is_a_sentence():
    with pytest.raises(UserError, match="exit code 2"):
        rlsys_train("ppo", "--env=Nope-v1")
