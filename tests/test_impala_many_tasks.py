"""One agent for the 57 games of Atari: a whole run, tiny."""

import json

import pytest

from rlsys import cli, train

GAMES = """
Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling
Boxing Breakout Centipede ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro
FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey Jamesbond Kangaroo Krull KungFuMaster
MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye Qbert Riverraid RoadRunner
Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis TimePilot Tutankham
UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon
""".split()


@pytest.mark.slow
def test_one_agent_plays_the_57_games_of_atari(tmp_path):
    tasks = ",".join(f"{game}-v5" for game in GAMES)
    names = [f"{game}-v5:max_episode_steps=40" for game in GAMES]  # with their options
    words = [
        "impala", "--env", tasks, "--hidden-size", "16", "--unroll-length", "5",
        "--refresh-steps", "5", "--env-steps", "6000", "--log-every", "3000",
        "--eval-episodes", "1", "--max-episode-steps", "40", "--run-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert len(GAMES) == 57
    assert cli.exit_code(lambda: train.main(words)) == 0
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    shares = [lines[-1][f"share/{name}"] for name in names]
    assert sum(shares) == pytest.approx(1) and sum(s > 0 for s in shares) > 50
    assert sum(lines[-1][f"popart_scale/{name}"] > 0 for name in names) == 57
    results = json.loads((tmp_path / "run/evaluation.json").read_text())["results"]
    kinds = ("greedy", "sampled")
    assert set(results) == {
        f"{kind} {game}-v5:max_episode_steps=40" for kind in kinds for game in GAMES
    }
