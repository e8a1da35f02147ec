"""Finds the numbers of a MuJoCo model that can be changed, and computes them with changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

AXES = ("x", "y", "z")
ENDS = ("low", "high")
# Each kind of number that can be changed, and the arrays of MuJoCo's mjModel that hold it.
ARRAYS = {
    "mass": ("body_mass", "body_inertia"),
    "size": ("geom_size",),
    "friction": ("geom_friction",),
    "damping": ("dof_damping",),
    "frictionloss": ("dof_frictionloss",),
    "armature": ("dof_armature",),
    "stiffness": ("jnt_stiffness",),
    "range": ("jnt_range",),
    "gear": ("actuator_gear",),
    "gain": ("actuator_gainprm", "actuator_biasprm", "actuator_gear"),
    "gravity": ("gravity",),
    "timestep": ("timestep",),
}
OF_JOINTS = ("damping", "frictionloss", "armature", "stiffness", "range")


class Refused(Exception):
    """MuJoCo does not take a model, or reads other numbers than those that were asked for."""


class Place(NamedTuple):
    """Names a number of a model that can be changed."""

    what: str  # the kind of number, a key of ARRAYS
    name: str  # the name of its body, geom, joint or actuator, or the axis; "" of the time step
    part: str  # "low" or "high" of a range, else ""
    number: int  # the index of its body, geom, joint or actuator, or of the axis
    nominal: float  # the model's own number; the largest, if one factor changes several

    @property
    def words(self) -> str:
        """The place's name in a log: "mass@torso", "range@knee.low", "gravity@z"."""
        return self.what + (f"@{self.name}" if self.name else "") + (self.part and f".{self.part}")


class Change(NamedTuple):
    """Changes the number x at a place to factor * x + shift."""

    place: Place
    factor: float = 1.0
    shift: float = 0.0


def compile_file(path: Path) -> Any:
    """Compiles a file to MuJoCo's mjModel.

    Raises:
      Refused: MuJoCo does not take it.
    """
    import mujoco

    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise Refused(f"MuJoCo: {' '.join(str(error).split())}") from None


def arrays_of(compiled: Any) -> dict[str, np.ndarray]:
    """Returns copies of an mjModel's arrays, those that ARRAYS names, by name."""
    names = {name for names in ARRAYS.values() for name in names} - {"gravity", "timestep"}
    found = {name: np.array(getattr(compiled, name)) for name in sorted(names)}
    return found | {
        "gravity": np.array(compiled.opt.gravity),
        "timestep": np.array([compiled.opt.timestep]),
    }


def dofs_of(compiled: Any) -> list[slice]:
    """Returns for each joint the slice of the degrees of freedom that are its own."""
    ends = [*compiled.jnt_dofadr[1:], compiled.nv]
    return [slice(int(a), int(b)) for a, b in zip(compiled.jnt_dofadr, ends, strict=True)]


def scale_gain(arrays: dict[str, np.ndarray], i: int, factor: float, shift: float) -> None:
    """Changes the gain of actuator i in place. A servo's force is its gain times the control, plus
    a bias that pulls back in proportion to the position or, in a servo of velocity, to the
    velocity: both change by one factor, so that the servo comes to rest where it did. A motor has
    no other gain than its gear."""
    gain, bias = arrays["actuator_gainprm"], arrays["actuator_biasprm"]
    if not bias[i].any():
        gear = arrays["actuator_gear"]
        gear[i] = gear[i] * factor + shift * (gear[i] != 0)
        return
    before = gain[i, 0]
    gain[i, 0] = before * factor + shift
    term = 1 if bias[i, 1] else 2
    if before and bias[i, term] < 0:  # a muscle's bias is none of these
        bias[i, term] *= gain[i, 0] / before


def places_of(compiled: Any, what: str) -> Iterator[Place]:
    """Gives the places of a model that hold numbers of one kind: what, a key of ARRAYS.

    Masses, and numbers of joints apart from their range, are left out where they are 0, as a factor
    would not change them.
    """
    import mujoco

    def name(kind: str, i: int) -> str:
        kinds = mujoco.mjtObj
        found = mujoco.mj_id2name(compiled, getattr(kinds, f"mjOBJ_{kind.upper()}"), i)
        return found or f"{kind}{i}"

    def place(kind: str, i: int, nominal: float, part: str = "") -> Place:
        return Place(what, name(kind, i), part, i, float(nominal))

    if what == "gravity":  # an axis without it gets some, too
        for i, axis in enumerate(AXES):
            yield Place(what, axis, "", i, float(compiled.opt.gravity[i]))
    elif what == "timestep":
        yield Place(what, "", "", 0, float(compiled.opt.timestep))
    elif what == "mass":
        for i in map(int, np.flatnonzero(compiled.body_mass > 0)):
            yield place("body", i, compiled.body_mass[i])
    elif what == "size":
        for i in map(int, np.flatnonzero(compiled.body_geomnum)):
            if i > 0:  # the world has no size
                yield place("body", i, compiled.geom_size[compiled.body_geomadr[i]].max())
    elif what == "friction":
        meets = (compiled.geom_contype | compiled.geom_conaffinity) > 0
        for i in map(int, np.flatnonzero(meets)):
            body = name("body", int(compiled.geom_bodyid[i]))
            found = place("geom", i, compiled.geom_friction[i, 0])
            yield found._replace(name=f"{body}/{i}") if found.name == f"geom{i}" else found
    elif what in ("gear", "gain"):
        for i in range(compiled.nu):
            servo = compiled.actuator_biasprm[i].any()
            array = (
                compiled.actuator_gainprm if what == "gain" and servo else compiled.actuator_gear
            )
            yield place("actuator", i, np.abs(array[i]).max())
    else:
        for i, dofs in enumerate(dofs_of(compiled)):
            if what == "range":
                limits = compiled.jnt_range[i] if compiled.jnt_limited[i] else ()
                for part, nominal in zip(ENDS, limits, strict=bool(len(limits))):
                    yield place("joint", i, nominal, part)
                continue
            own = slice(i, i + 1) if what == "stiffness" else dofs
            nominal = getattr(compiled, ARRAYS[what][0])[own].max()
            if nominal:
                yield place("joint", i, nominal)


def changed(
    arrays: dict[str, np.ndarray], joint_dofs: list[slice], changes: list[Change]
) -> dict[str, np.ndarray]:
    """Returns a model's arrays with changes. Changes of sizes are left out, as a size changes other
    arrays too, which depends on the shape; see mjcf.Model.write.

    Args:
      arrays: as arrays_of returns them.
      joint_dofs: as dofs_of returns them.
    """
    found = {name: array.copy() for name, array in arrays.items()}
    for (what, _, part, i, _), factor, shift in changes:
        if what == "mass":
            before = found["body_mass"][i]
            found["body_mass"][i] = before * factor + shift
            found["body_inertia"][i] *= found["body_mass"][i] / before
        elif what == "gain":
            scale_gain(found, i, factor, shift)
        elif what in ("damping", "frictionloss", "armature"):
            dofs = joint_dofs[i]
            found[f"dof_{what}"][dofs] = found[f"dof_{what}"][dofs] * factor + shift
        elif what == "range":
            end = ENDS.index(part)
            found["jnt_range"][i, end] = found["jnt_range"][i, end] * factor + shift
        elif what != "size":  # one change for all the numbers that an element has
            array = found[ARRAYS[what][0]]
            used = (array[i] != 0) | (what == "gravity")
            array[i] = array[i] * factor + shift * used
    return found
