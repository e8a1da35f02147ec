"""XML files with other physics: what MuJoCo reads in them, and what EnvPool plays with them."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rlsys.envs.envpool import EnvPoolEnvs
from rlsys.envs.options import Options, Task
from rlsys.envs.randomise import assets, mjcf, model, words
from rlsys.envs.randomise.physics import XmlPhysics, numbers_at
from rlsys.envs.randomise.variants import make_variant, rollout
from rlsys.types import UserError

EVERY = "mass size friction damping armature range gear gain gravity timestep".split()
FILES = {  # which file a task reads, where its settings name another or none
    "Hopper-v5": "assets_gym/hopper_envpool.xml",
    "Walker2d-v5": "assets_gym/walker2d_v5_envpool.xml",
    "Pusher-v5": "assets_gym/pusher_v5_envpool.xml",
    "CheetahRun-v1": "assets_dmc/cheetah.xml",
}
PLAYED = [
    "Hopper-v5",
    "HalfCheetah-v5",
    "Ant-v5",
    "InvertedDoublePendulum-v5",
    "CartpoleSwingup-v1",
    "CheetahRun-v1",
    "SwimmerSwimmer6-v1",
    *(
        pytest.param(x, marks=pytest.mark.slow)
        for x in (
            "Humanoid-v5 WalkerWalk-v1 HumanoidWalk-v1 HandManipulateBlockRotateZDense-v1 "
            "HandReachDense-v3 FetchPush-v4 AdroitHandDoor-v1 MetaWorld/Reach-v3 "
            "LeapCubeReorient-v1 AeroCubeRotateZAxis-v1"
        ).split()
    ),
]
HALF_CHEETAH = """
<mujoco>
  <compiler settotalmass="14" inertiafromgeom="true" angle="{angle}"/>
  <default><joint damping="2"/><geom density="500" contype="1"/></default>
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body name="a" pos="0 0 1">
      <joint name="slide" type="slide" axis="1 0 0" range="-1 1" limited="true"/>
      <geom name="ball" size="0.1"/>
      <frame pos="0 0 0.2">
        <body name="b">
          <joint name="hinge" axis="0 1 0" range="{low} {high}" limited="true" armature="0.1"/>
          <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.05"/>
        </body>
      </frame>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slide" gear="3"/>
    <position name="turn" joint="hinge" kp="7"/>
    <general name="hold" joint="hinge" gainprm="500" biastype="affine" biasprm="0 -200 -3"/>
    <velocity name="spin" joint="hinge" kv="4"/>
  </actuator>
</mujoco>
"""


def small(tmp_path, angle="degree"):
    ends = {"degree": (-90, 45), "radian": (-np.pi / 2, np.pi / 4)}[angle]
    path = tmp_path / "model.xml"
    path.write_text(HALF_CHEETAH.format(angle=angle, low=ends[0], high=ends[1]))
    return mjcf.Model(mjcf.expand(path), path), path


def change(found, what, name, factor=1.0, shift=0.0):
    [place] = [x for x in found.places[what] if x.words.partition("@")[2] == name]
    return model.Change(place, factor, shift)


def compiled(path):
    return model.compile_file(path)


@pytest.mark.parametrize("angle", ["degree", "radian"])
def test_mujoco_reads_what_was_written(tmp_path, angle):
    """Each number alone, against MuJoCo's own reading of the file."""
    found, path = small(tmp_path, angle)
    before = compiled(path)
    assert before.body_mass[1:].sum() == pytest.approx(14)
    found.write([change(found, "mass", "b", 1.5)], path)
    after = compiled(path)
    np.testing.assert_allclose(after.body_mass, before.body_mass * [1, 1, 1.5], rtol=1e-12)
    np.testing.assert_allclose(after.body_inertia[2], before.body_inertia[2] * 1.5, rtol=1e-9)
    np.testing.assert_allclose(after.body_inertia[1], before.body_inertia[1], rtol=1e-9)
    found.write([change(found, "range", "hinge.high", shift=0.1)], path)
    after = compiled(path).jnt_range
    np.testing.assert_allclose(after[1], [-np.pi / 2, np.pi / 4 + 0.1], rtol=1e-12)
    np.testing.assert_array_equal(after[0], [-1, 1])
    factors = {"push": 2, "turn": 0.5, "hold": 1.5, "spin": 3}
    found.write([change(found, "gain", name, factor) for name, factor in factors.items()], path)
    after = compiled(path)
    np.testing.assert_allclose(after.actuator_gainprm[:, 0], [1, 3.5, 750, 12])
    wanted = [[0, 0, 0], [0, -3.5, 0], [0, -300, -3], [0, 0, -12]]
    np.testing.assert_allclose(after.actuator_biasprm[:, :3], wanted)
    np.testing.assert_allclose(after.actuator_gear[:, 0], [6, 1, 1, 1])
    found.write([change(found, "gravity", "x", shift=0.3), change(found, "timestep", "", 2)], path)
    after = compiled(path)
    np.testing.assert_allclose(after.opt.gravity, [0.3, 0, -9.81])
    assert after.opt.timestep == 0.02
    found.write(
        [change(found, "damping", "hinge", 3), change(found, "friction", "ball", 0.5)], path
    )
    after = compiled(path)
    np.testing.assert_allclose(after.dof_damping, [2, 6])
    np.testing.assert_allclose(after.geom_friction[1], before.geom_friction[1] / 2)
    np.testing.assert_array_equal(after.geom_friction[0], before.geom_friction[0])


def test_an_included_file_may_name_a_mesh_beside_it(tmp_path):
    """Whatever the folder of meshes is."""
    (tmp_path / "cube.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n")
    (tmp_path / "part.xml").write_text(
        '<mujoco><asset><mesh name="cube" file="cube.obj"/></asset></mujoco>'
    )
    path = tmp_path / "model.xml"
    path.write_text('<mujoco><compiler meshdir="other"/><include file="part.xml"/></mujoco>')
    assert compiled(path).nmesh == 1
    path.write_bytes(ET.tostring(mjcf.expand(path)))
    assert compiled(path).nmesh == 1


def test_a_size_scales_a_body_and_its_mass_follows(tmp_path):
    found, path = small(tmp_path)
    before = compiled(path)
    sizes = [change(found, "size", "a", 1.1), change(found, "size", "b", 0.9)]
    found.write([*sizes, change(found, "mass", "a", 2.0)], path)
    after = compiled(path)
    np.testing.assert_allclose(after.geom_size[1], before.geom_size[1] * 1.1)
    np.testing.assert_allclose(after.geom_size[2], before.geom_size[2] * 0.9)
    ratio = 1.1**3 * before.body_mass[1] / (0.9**3 * before.body_mass[2])  # densities stay
    assert after.body_mass[1] / after.body_mass[2] == pytest.approx(2 * ratio)


def test_a_size_may_stay_as_it_is(tmp_path):
    """A factor of 1 is what ranges begin with that widen."""
    found, path = small(tmp_path)
    before = compiled(path)
    found.write([change(found, "size", "a", 1.0), change(found, "size", "b", 0.9)], path)
    np.testing.assert_allclose(compiled(path).geom_size[1], before.geom_size[1])
    np.testing.assert_allclose(compiled(path).geom_size[2], before.geom_size[2] * 0.9)


def test_a_size_leaves_other_bodies_their_mesh(tmp_path):
    """As Playground's cube and its goal share one. Both may also be scaled, each in its own way."""
    path = tmp_path / "model.xml"
    path.write_text(
        '<mujoco><asset><mesh name="cube" vertex="0 0 0 1 0 0 0 1 0 0 0 1" scale=".1 .1 .2"/>'
        '</asset><worldbody><body name="a"><joint/><geom type="mesh" mesh="cube"/><geom '
        'type="mesh" mesh="cube" pos="1 0 0"/></body><body name="b"><geom type="mesh" mesh="cube"/>'
        "</body></worldbody></mujoco>"
    )
    found = mjcf.Model(mjcf.expand(path), path)
    before = compiled(path).geom_size
    found.write([change(found, "size", "a", 1.1)], path)
    np.testing.assert_allclose(compiled(path).geom_size, before * [[1.1], [1.1], [1.0]], rtol=1e-6)
    found.write([change(found, "size", "a", 1.1), change(found, "size", "b", 0.9)], path)
    np.testing.assert_allclose(compiled(path).geom_size, before * [[1.1], [1.1], [0.9]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    ["LeapCubeReorient-v1", "AeroCubeRotateZAxis-v1", "HandManipulateBlockRotateZDense-v1"],
)
def test_dactyls_words_can_be_drawn_on_a_hand_with_a_cube(task):
    preset = list(map(words.read, words.PHYSICS_OF["dactyl"]))
    physics = XmlPhysics(task, preset, preset=True, pictures=False)
    assert not physics.left_out
    with physics.variant(numbers_at(physics.parameters, np.full(len(physics.parameters), 0.7))):
        pass


def test_a_size_that_mujoco_does_not_take_is_refused(tmp_path, monkeypatch):
    found, path = small(tmp_path)
    monkeypatch.setattr(mjcf, "_resize", lambda root, model, body, factor: [body])
    with pytest.raises(model.Refused, match="sizes"):
        found.write([change(found, "size", "a", 1.1), change(found, "size", "b", 1.0)], path)


@pytest.mark.parametrize(
    "fault, what, name, shift",
    [("MuJoCo", "range", "slide.low", 3.0), ("MuJoCo", "mass", "a", -100.0)],
)
def test_what_mujoco_does_not_take_is_refused(tmp_path, fault, what, name, shift):
    found, path = small(tmp_path)
    with pytest.raises(model.Refused, match=fault):
        found.write([change(found, what, name, shift=shift)], path)


def test_a_file_that_makes_bodies_is_refused_for_them(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text(
        '<mujoco><worldbody><replicate count="3" offset="1 0 0"><body><joint/><geom size=".1"/>'
        "</body></replicate></worldbody></mujoco>"
    )
    found = mjcf.Model(mjcf.expand(path), path)
    with pytest.raises(model.Refused, match="replicate"):
        found.write([model.Change(found.places["mass"][0], 2.0)], path)


def test_a_number_in_the_wrong_element_is_refused(tmp_path, monkeypatch):
    """Whatever is written is compared with what MuJoCo reads."""
    found, path = small(tmp_path)
    element = mjcf._element
    wrong = lambda root, place: element(root, place._replace(number=0))  # noqa: E731
    monkeypatch.setattr(mjcf, "_element", wrong)
    with pytest.raises(model.Refused, match="another damping"):
        found.write([change(found, "damping", "hinge", 3)], path)


@pytest.mark.parametrize("task", FILES)
def test_the_file_that_a_task_reads(task):
    assert str(assets.source_of(task).file) == f"mujoco/{FILES[task]}"


def play(physics, task, numbers):
    env = make_variant(Task(task, task, Options(), True), physics, numbers, 1, 5, num_threads=1)
    return rollout(env, 30)


@pytest.mark.parametrize("task", PLAYED)
def test_a_task_plays_the_same_with_its_own_numbers_and_else_differs(task):
    """All numbers are written as they are, in a file without textures: EnvPool plays to the bit
    what it plays by its own file. Then every kind of number that the task has is changed."""
    kinds = [x for x in EVERY if x != "size" or "Adroit" not in task]  # whose sizes are refused
    every = [words.read(f"{what}={'add' if what == 'range' else 'scale'}:1:1") for what in kinds]
    physics = XmlPhysics(task, every, preset=True, pictures=False)
    own = rollout(EnvPoolEnvs(Task(task, task, Options(), True), 1, 5, num_threads=1), 30)
    same = play(physics, task, physics.nominal())
    assert len(physics.parameters) > 3
    for a, b in zip(own, same, strict=True):
        np.testing.assert_equal(a, b)
    kinds = [x.word.what for x in physics.parameters]
    moves = "mass" if "Swimmer" in task else "gravity" if "gear" not in kinds else "gear"
    numbers = np.where([x == moves for x in kinds], 0.8, physics.nominal())
    other = play(physics, task, numbers)
    with pytest.raises(AssertionError):
        np.testing.assert_equal(own, other)


@pytest.mark.parametrize(
    "task, why", [("Pong-v5", "family 'atari'"), ("PointMaze_UMaze-v3", "reads no XML")]
)
def test_a_task_whose_xml_cannot_be_changed(task, why):
    with pytest.raises(UserError, match=f"physics of '{task}' cannot be changed: .*{why}"):
        assets.source_of(task)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("mas=scale:1:2", "there is no 'mas' .* the nearest: mass"),
        ("mass@torsso=scale:1:2", "no mass of that name; the nearest: torso"),
        ("stiffness=scale:1:2", "has no stiffness, only mass, "),
        ("mass=uniform:1:2", "uniform is for a function's arguments"),
    ],
)
def test_a_word_that_fits_nothing(text, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        XmlPhysics("Hopper-v5", [words.read(text)], preset=False, pictures=False)
    assert "\n" not in str(raised.value)


def test_one_number_for_all_and_the_later_of_two_words():
    texts = ("mass=scale:0.5:1.5:all", "mass@foot=scale:2:3")
    physics = XmlPhysics("Hopper-v5", list(map(words.read, texts)), preset=False, pictures=False)
    assert [x.name for x in physics.parameters] == ["mass", "mass@foot"]
    factors = {x.place.name: x.factor for x in physics.changes(np.array([0.5, 2.0]))}
    assert factors == {"torso": 0.5, "thigh": 0.5, "leg": 0.5, "foot": 2.0}
    texts = ("mass=scale:0.5:1.5", "mass=scale:2:2:all", "mass@foot=scale:3:3")
    physics = XmlPhysics("Hopper-v5", list(map(words.read, texts)), preset=False, pictures=False)
    assert [x.name for x in physics.parameters] == ["mass", "mass@foot"]
    factors = {x.place.name: x.factor for x in physics.changes(np.array([2.0, 3.0]))}
    assert factors == {"torso": 2.0, "thigh": 2.0, "leg": 2.0, "foot": 3.0}


def test_a_factor_leaves_out_what_is_0():
    def names(*texts):
        given = list(map(words.read, texts))
        found = XmlPhysics("Hopper-v5", given, preset=False, pictures=False)
        return [x.name for x in found.parameters]

    assert names("gravity=scale:0.5:1.5") == ["gravity@z"]
    assert "range@thigh_joint.high" not in names("range=scale:0.5:1.5")
    assert "range@thigh_joint.high" in names("range=normal:0.1")
    with pytest.raises(UserError, match=r"gravity@x,y is 0 in 'Hopper-v5'; add or normal would"):
        names("gravity@x,y=scale:0.5:1.5")


def test_a_word_may_name_one_end_of_a_range():
    texts = ("range=add:-1:1", "range@leg_joint.low=add:0:0.1")
    physics = XmlPhysics("Hopper-v5", list(map(words.read, texts)), preset=False, pictures=False)
    own = [x.name for x in physics.parameters if x.word.text == texts[1]]
    assert own == ["range@leg_joint.low"] and len(physics.parameters) > 2


def test_a_presets_words_that_fit_nothing_are_left_out():
    preset = list(map(words.read, words.PHYSICS_OF["dactyl"]))
    physics = XmlPhysics("Hopper-v5", preset, preset=True, pictures=False)
    assert physics.left_out == ["size@object,cube=scale:0.95:1.05"]
    assert len({x.word.what for x in physics.parameters}) == len(preset) - 1


def test_pictures_keep_their_textures():
    source = assets.source_of("CheetahRun-v1")
    root = mjcf.expand(source.base / source.file)
    assert list(root.iter("texture"))
    mjcf.drop_pictures(root)
    assert not list(root.iter("texture")) and list(root.iter("material"))
