"""How many steps an EnvPool task takes in a second of its own time, by which a gif is shown."""

import re
from pathlib import Path
from typing import Any

import gymnasium

from rlsys.envs.backend import render_fps

SCREENS = {  # screens a second
    "atari": 60.0,
    "vizdoom": 35.0,
}
STEPS = {"box2d": 50.0}  # Gymnasium's FPS; it tells only where Box2D is installed
TIMESTEP = 0.002  # seconds, where a MuJoCo model names none


def steps_per_second(env_id: str, family: str, spec: Any, base_path: str) -> float | None:
    """Return the steps of an EnvPool task in a second of its own time, None if unknown.

    Args:
      env_id: EnvPool's id.
      family: the id's family.
      spec: EnvPool's specification of the pool that plays it.
      base_path: the folder below which EnvPool's own models are. The pool's is another where its
        physics are drawn, and is gone once the pool is made.
    """
    if family in SCREENS:
        return SCREENS[family] / spec.config.frame_skip
    if family in STEPS:
        return STEPS[family]
    if family == "mujoco":
        if "ctrl_dt" in spec.config._fields:  # Playground's
            return 1 / spec.config.ctrl_dt
        model = _model(spec, Path(base_path) / "mujoco")
        return 1 / (_timestep(model) * spec.config.frame_skip) if model else None
    return _of_gymnasium(env_id)


def _model(spec: Any, folder: Path) -> Path | None:
    """Return the file of a MuJoCo task's model; None outside the tasks of Gymnasium, of
    Gymnasium-Robotics and of DM Control."""
    config = spec.config._asdict()
    domain = re.fullmatch(r"_?Dmc(\w+)EnvSpec", type(spec).__name__)
    if domain:
        name = domain[1].lower()
        files = folder.glob("assets_dmc/*.xml")
        return next((x for x in files if x.stem.replace("_", "").lower() == name), None)
    robot = folder / "robotics/assets" / config.get("xml_file", "none")
    if robot.is_file():
        return robot
    stem = Path(config["xml_file"]).stem if "xml_file" in config else "none"
    return next(folder.glob(f"assets_gym/{stem}*.xml"), None)  # some are kept as <stem>_envpool


def _timestep(model: Path) -> float:
    """Return the seconds of one step of a MuJoCo model's simulation."""
    found = re.search(r"<option\b[^>]*\btimestep=\"([^\"]+)\"", model.read_text())
    return float(found[1]) if found else TIMESTEP


def _of_gymnasium(env_id: str) -> float | None:
    """Return what Gymnasium says of its environment of the same id, if it has one here."""
    try:
        made: Any = gymnasium.spec(env_id).entry_point
        made = gymnasium.envs.registration.load_env_creator(made)
        return render_fps(made.metadata)
    except Exception:  # there is none, or a library that it needs is missing
        return None
