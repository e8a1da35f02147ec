"""Reads a MuJoCo model's XML file (MJCF), and writes the file with other numbers.

It changes the XML itself. Writing the compiled model with MjSpec.to_xml would lose what the file
says of masses (`settotalmass`, so that HalfCheetah would weigh 21 kg and not 14) and of capsules
that are given from point to point by a class (so that Swimmer would no longer compile), and would
round all numbers. MuJoCo compiles every file that is written, and the numbers that it reads must be
those that were asked for.
"""

import copy
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from rlsys.envs.randomise.model import (
    ARRAYS,
    OF_JOINTS,
    Change,
    Place,
    Refused,
    arrays_of,
    changed,
    compile_file,
    dofs_of,
    places_of,
)

ACTUATORS = (
    "general motor position velocity intvelocity damper cylinder muscle adhesion dcmotor plugin"
).split()


def expand(path: Path, root: ET.Element | None = None, main: Path | None = None) -> ET.Element:
    """Returns the XML of a file, in which each <include> is replaced by the file that it names.

    Args:
      path: the file.
      root: the element of it whose children are looked at; None for the whole file.
      main: the file that includes this one; MuJoCo looks for all files beside it. None for itself.
    """
    main = main or path
    root = ET.parse(path).getroot() if root is None else root
    children: list[ET.Element] = []
    for child in root:
        if path != main and (path.parent / child.attrib.get("file", "")).is_file():
            child.set("file", str(path.parent / child.attrib["file"]))  # as MuJoCo, before meshdir
        if child.tag == "include":
            file = main.parent / child.attrib["file"]
            if not file.exists():
                file = path.parent / child.attrib["file"]
            children += list(expand(file, None, main))
        else:
            children.append(expand(path, child, main))
    root[:] = children
    return root


def drop_pictures(root: ET.Element) -> None:
    """Removes textures from a model. Physics needs none, and MuJoCo spends most of the time that it
    takes to read some models on the texture of the sky."""
    for parent in list(root.iter()):
        parent.attrib.pop("texture", None)
        parent[:] = [x for x in parent if x.tag not in ("texture", "layer")]


class Model:
    """A task's MuJoCo model: its XML, and its numbers as MuJoCo reads them.

    Attributes:
      places: for each kind of number, a key of ARRAYS, the places where the model has it.
      arrays: the arrays that ARRAYS names.
      joint_dofs: for each joint the slice of its degrees of freedom.
      joint_types, geom_types: the type of each joint (mjtJoint) and of each geom (mjtGeom).
      frames: positions and quaternions of the frames in which the bodies' inertias are given.
    """

    def __init__(self, root: ET.Element, path: Path):
        """Reads a model.

        Args:
          root: its XML, without includes.
          path: the XML is written to this file, beside which MuJoCo must find the model's meshes.

        Raises:
          Refused: MuJoCo does not take it.
        """
        self.root = root
        # Else MuJoCo would put a robot that explodes back at rest, and groups.py would not see it.
        ET.SubElement(ET.SubElement(root, "option"), "flag", autoreset="disable")
        _write(root, path)
        compiled = compile_file(path)
        self.arrays = arrays_of(compiled)
        self.joint_types = np.array(compiled.jnt_type)
        self.geom_types = np.array(compiled.geom_type)
        self.joint_dofs = dofs_of(compiled)
        self.frames = np.array(compiled.body_ipos), np.array(compiled.body_iquat)
        self.places = {what: list(places_of(compiled, what)) for what in ARRAYS}

    def write(self, changes: list[Change], path: Path) -> None:
        """Writes the model with changes to a file, which MuJoCo reads to check it.

        Raises:
          Refused: MuJoCo does not take it, or reads other numbers than were asked for.
        """
        root, model = copy.deepcopy(self.root), self
        if sizes := [x for x in changes if x.place.what == "size"]:
            expected = self.arrays["geom_size"].copy()
            for place, factor, shift in sizes:
                scale = factor + shift / place.nominal
                expected[_resize(root, self, place.number, scale)] *= scale
            model = Model(copy.deepcopy(root), path)  # MuJoCo computes masses from sizes
            if not np.allclose(model.arrays["geom_size"], expected, rtol=1e-4, atol=1e-9):
                raise Refused("its sizes are not those of the file")
        wanted = changed(model.arrays, model.joint_dofs, changes)
        for change in changes:
            _write_place(root, change.place, wanted, model)
        if any(x.place.what == "mass" for x in changes):
            _keep_masses(root, wanted, model, {x.place.number for x in changes})
        _write(root, path)
        found = arrays_of(compile_file(path))
        for what in {x.place.what for x in changes} - {"size"}:
            for name in ARRAYS[what]:
                if not np.allclose(found[name], wanted[name], rtol=1e-6, atol=1e-12):
                    raise Refused(f"MuJoCo reads another {what} than was written")


def _write(root: ET.Element, path: Path) -> None:
    path.write_bytes(ET.tostring(root))


def _text(numbers: Any) -> str:
    return " ".join(repr(float(x)) for x in np.ravel(numbers))


def _bodies(root: ET.Element) -> list[ET.Element]:
    """Returns the elements of the bodies in MuJoCo's order, the world first.

    Raises:
      Refused: the file has MuJoCo make bodies that have no element of their own.
    """
    world = ET.Element("body")
    for part in root.findall("worldbody"):
        world.extend(part)
    found = [world]

    def visit(element: ET.Element) -> None:
        for child in element:
            if child.tag in ("replicate", "composite", "flexcomp", "attach"):
                raise Refused(f"its file makes bodies by <{child.tag}>")
            if child.tag == "body":
                found.append(child)
            if child.tag in ("body", "frame"):
                visit(child)

    visit(world)
    return found


def _within(body: ET.Element, *tags: str) -> list[ET.Element]:
    """Returns a body's own elements with these tags, also those in its <frame> elements."""
    found: list[ET.Element] = []
    for child in body:
        if child.tag in tags:
            found.append(child)
        elif child.tag == "frame":
            found += _within(child, *tags)
    return found


def _element(root: ET.Element, place: Place) -> ET.Element:
    """Returns the element of the geom, joint or actuator to which a place belongs.

    Raises:
      Refused: there is none.
    """
    if place.what in ("gear", "gain"):
        found = [x for part in root.findall("actuator") for x in part if x.tag in ACTUATORS]
    elif place.what in OF_JOINTS:
        found = [x for body in _bodies(root) for x in _within(body, "joint", "freejoint")]
    else:
        found = [x for body in _bodies(root) for x in _within(body, "geom")]
    if place.number >= len(found):
        raise Refused(f"its file does not show {place.words}")
    return found[place.number]


def _resize(root: ET.Element, model: Model, body: int, factor: float) -> list[int]:
    """Scales the geoms of a body about its origin, and returns the indices of those that have a
    size. The bodies that are attached to it stay where they are.

    Raises:
      Refused: the file does not show a geom's mesh.
    """
    bodies, scaled, found = _bodies(root), set(), []
    first = sum(len(_within(x, "geom")) for x in bodies[:body])
    for i, geom in enumerate(_within(bodies[body], "geom"), first):
        kind = int(model.geom_types[i])
        if kind < 2:  # mjGEOM_PLANE, mjGEOM_HFIELD
            continue
        found.append(i)
        for name in ("pos", "fromto"):
            if name in geom.attrib:
                geom.set(name, _text(factor * np.array(geom.attrib[name].split(), float)))
        if kind != 7:  # mjGEOM_MESH
            geom.set("size", _text(factor * model.arrays["geom_size"][i]))
            continue
        name = geom.attrib.get("mesh", "")
        own = f"{name}-{body}"  # a copy, as other bodies may show the mesh as it is
        if own not in scaled:
            mesh = copy.deepcopy(_mesh(root, name))
            scale = np.array(mesh.attrib.get("scale", "1 1 1").split(), float)
            mesh.attrib.update(name=own, scale=_text(factor * scale))
            root.findall("asset")[-1].append(mesh)
            scaled.add(own)
        geom.set("mesh", own)
    return found


def _mesh(root: ET.Element, name: str) -> ET.Element:
    """Returns the element of a mesh. A mesh without a name has the name of its file.

    Raises:
      Refused: there is none.
    """
    for mesh in [x for part in root.findall("asset") for x in part if x.tag == "mesh"]:
        if mesh.attrib.get("name", Path(mesh.attrib.get("file", "")).stem) == name:
            return mesh
    raise Refused(f"its file does not show the mesh {name!r}")


def _option(root: ET.Element) -> ET.Element:
    """Returns the last <option>, whose attributes count; it is made if there is none."""
    found = root.findall("option")
    return found[-1] if found else ET.SubElement(root, "option")


def _write_place(
    root: ET.Element, place: Place, wanted: dict[str, np.ndarray], model: Model
) -> None:
    """Writes the wanted numbers of a place into its element; masses are written by _keep_masses."""
    what, i = place.what, place.number
    if what in ("gravity", "timestep"):
        for option in root.findall("option"):
            option.attrib.pop(what, None)
        _option(root).set(what, _text(wanted[what]))
    elif what == "friction":
        _element(root, place).set("friction", _text(wanted["geom_friction"][i]))
    elif what == "range":
        degrees = _in_degrees(root) and model.joint_types[i] in (1, 3)  # mjJNT_BALL, mjJNT_HINGE
        limits = wanted["jnt_range"][i]
        _element(root, place).set("range", _text(np.rad2deg(limits) if degrees else limits))
    elif what == "stiffness":
        _element(root, place).set(what, _text(wanted["jnt_stiffness"][i]))
    elif what in OF_JOINTS:
        dofs = model.joint_dofs[i]
        _element(root, place).set(what, _text(wanted[f"dof_{what}"][dofs.start]))
    elif what in ("gear", "gain"):
        element = _element(root, place)
        element.set("gear", _text(wanted["actuator_gear"][i]))
        gain, bias = wanted["actuator_gainprm"][i], wanted["actuator_biasprm"][i]
        if what == "gain" and bias.any():
            if element.tag == "general":
                element.set("gainprm", _text(gain))
                element.set("biasprm", _text(bias))
            else:
                element.set("kv" if element.tag == "velocity" else "kp", _text(gain[0]))


def _in_degrees(root: ET.Element) -> bool:
    """Returns whether the file gives angles in degrees, as it does unless it says otherwise."""
    given = [x.attrib["angle"] for x in root.findall("compiler") if "angle" in x.attrib]
    return (given or ["degree"])[-1] == "degree"


def _keep_masses(
    root: ET.Element, wanted: dict[str, np.ndarray], model: Model, changed: set[int]
) -> None:
    """Writes the wanted masses and inertias of the bodies into their elements.

    If the file tells MuJoCo to scale all masses (settotalmass) or to compute them from the geoms
    (inertiafromgeom), these rules are removed, and every body gets its own mass.

    Args:
      changed: the indices of the bodies whose masses were drawn.

    Raises:
      Refused: the file does not show all bodies.
    """
    rules = [x for x in root.findall("compiler")]
    ruled = any({"settotalmass", "inertiafromgeom"} & set(x.attrib) for x in rules)
    for rule in rules:
        rule.attrib.pop("settotalmass", None)
        rule.attrib.pop("inertiafromgeom", None)
    bodies = _bodies(root)
    if len(bodies) != len(wanted["body_mass"]):
        raise Refused("its file does not show all bodies")
    for i, body in enumerate(bodies):
        if i == 0 or wanted["body_mass"][i] == 0 or not (ruled or i in changed):
            continue
        body[:] = [x for x in body if x.tag != "inertial"]
        inertial = ET.SubElement(body, "inertial")
        inertial.set("pos", _text(model.frames[0][i]))
        inertial.set("quat", _text(model.frames[1][i]))
        inertial.set("mass", _text(wanted["body_mass"][i]))
        inertial.set("diaginertia", _text(wanted["body_inertia"][i]))
