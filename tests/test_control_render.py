"Pictures without a screen: profiles against the simulators' own renderers, speed, messages, a quiet end"
import os, re, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

from vislearn.control import render
from vislearn.control.render import FastRenderer, RenderError, gl_info, import_mujoco, setup_gl, software
from vislearn.core import ConfigError

TOP = Path(__file__).parents[1]
GL = ('MUJOCO_GL', 'PYOPENGL_PLATFORM', 'LP_NUM_THREADS', 'PYGLET_HEADLESS', 'DISPLAY')


def fresh(code, **env):
    "Run code in a new process whose GL variables are only those given."
    base = {k: v for k, v in os.environ.items() if k not in GL}
    return subprocess.run([sys.executable, '-c', code], env=base | env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope='module')
def cheetah():
    setup_gl()
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
    env = HalfCheetahEnv(); env.reset(seed=0)
    yield env.model, env.data
    env.close()


def test_importing_the_module_imports_no_simulator():
    out = fresh("import sys, vislearn.control.render, vislearn.control.mujoco; print([m for m in sys.modules if m.split('.')[0] in ('mujoco', 'dm_control', 'OpenGL', 'pyglet', 'metaworld', 'gymnasium_robotics')])")
    assert out.stdout.strip() == '[]', out


def test_a_fresh_process_without_screen_renders():
    code = "from vislearn.control.mujoco import make_metaworld; e = make_metaworld('MetaWorld-reach', size=32); print(e.reset(seed=0)[0]['pixels'].std()>5)"
    assert fresh(code).stdout.strip() == 'True'


@pytest.mark.parametrize('env,expected', [({}, 'egl egl 0 1'), (dict(MUJOCO_GL='glfw'), 'glfw None 0 1'), (dict(LP_NUM_THREADS='2', PYGLET_HEADLESS='0'), 'egl egl 2 0'),
                                          (dict(PYOPENGL_PLATFORM='egl', MUJOCO_GL='egl'), 'egl egl 0 1'), (dict(PYOPENGL_PLATFORM='glx'), 'None glx 0 1')])
def test_what_the_user_set_stays(monkeypatch, env, expected):
    for k in GL: monkeypatch.delenv(k, raising=False)
    for k, v in env.items(): monkeypatch.setenv(k, v)
    setup_gl()
    assert ' '.join(str(os.environ.get(k)) for k in GL[:4]) == expected


def test_osmesa_where_there_is_no_egl(monkeypatch):
    for k in GL: monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(render, '_has', lambda library: library == 'OSMesa')
    assert setup_gl() == 'osmesa' and os.environ['PYOPENGL_PLATFORM'] == 'osmesa'
    for k in GL: monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(render, '_has', lambda library: False)
    assert setup_gl() == '' and 'MUJOCO_GL' not in os.environ


@pytest.mark.parametrize('backend,package', [('glfw', 'libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri'), ('osmesa', 'libosmesa6'), ('disabled', 'libegl1')])
def test_no_renderer_gives_one_line_that_names_packages_and_script(backend, package):
    "The real failures of a machine without a screen and without the library."
    if backend == 'osmesa' and render._has('OSMesa'): pytest.skip('OSMesa is installed here')
    out = fresh("from vislearn.control.mujoco import make_dmc\nfrom vislearn.control.render import RenderError\ntry: make_dmc('DMC-cartpole-swingup')\nexcept RenderError as e: print(e)", MUJOCO_GL=backend)
    line = out.stdout.strip()
    assert len(line.splitlines()) == 1 and line.startswith(f'cannot render with MUJOCO_GL={backend} (') and package in line and 'tools/system_packages.sh' in line, out


def test_simulator_imported_too_early_is_said():
    out = fresh("import mujoco\nfrom vislearn.control.render import gl_info, RenderError\ntry: gl_info()\nexcept RenderError as e: print(e)")
    assert out.stdout.startswith('cannot render: mujoco was imported before') and len(out.stdout.splitlines()) == 1, out


def test_missing_egl_library_is_said_in_one_line(cheetah, monkeypatch):
    "Simulated: the context cannot be made."
    mj = import_mujoco()
    def fail(*args): raise ImportError('Cannot initialize a EGL device display. This likely means that your EGL driver ...')
    monkeypatch.setattr(mj, 'GLContext', fail); monkeypatch.setitem(render._gl, 'late', False)
    with pytest.raises(RenderError, match='^cannot render with MUJOCO_GL=.* apt-get install libegl1 .*system_packages.sh') as e: FastRenderer(cheetah[0], 32)
    assert '\n' not in str(e.value) and isinstance(e.value, ConfigError) and cheetah[0].vis.global_.offwidth != 32


def test_state_needs_no_renderer():
    "Where nothing can be drawn, everything but pictures works."
    code = '''from vislearn.control import render; render._has = lambda library: False
from vislearn.control.mujoco import make_dmc, make_metaworld, make_adroit
for e in (make_dmc('DMC-cartpole-swingup', pixels=False), make_metaworld('MetaWorld-reach', pixels=False), make_adroit('Adroit-pen', pixels=False)): e.reset(seed=0); print(e.step(e.action_space.sample())[0]['state'].shape)'''
    out = fresh(code); assert out.stdout.split('\n')[:3] == ['(5,)', '(39,)', '(45,)'], out


def test_exact_is_what_the_simulator_draws(cheetah):
    import mujoco
    model, data = cheetah
    with FastRenderer(model, (48, 64), 'track', 'exact') as draw: ours = draw(data)
    with mujoco.Renderer(model, 48, 64) as r: r.update_scene(data, 'track'); theirs = r.render()
    assert ours.shape == (48, 64, 3) and (ours == theirs).all()


def test_fast_differs_is_brighter_and_leaves_the_model_alone(cheetah):
    model, data = cheetah; before = model.vis.quality.offsamples, model.vis.quality.shadowsize, model.vis.global_.offwidth
    pictures = {}
    for profile in ('fast', 'soft', 'exact'):
        with FastRenderer(model, 64, 'track', profile) as draw: pictures[profile] = draw(data).astype(float)
    assert pictures['fast'].mean() > pictures['exact'].mean() + .5
    assert np.abs(pictures['soft']-pictures['exact']).mean() < np.abs(pictures['fast']-pictures['exact']).mean()
    assert before == (model.vis.quality.offsamples, model.vis.quality.shadowsize, model.vis.global_.offwidth)


def test_fast_takes_at_most_half_of_the_cpu_time(cheetah):
    "Ratio of CPU time in one process (spec: more than ten times)."
    def cpu(profile, n):
        with FastRenderer(cheetah[0], 64, 'track', profile) as draw:
            draw(cheetah[1]); start = time.process_time()
            for _ in range(n): draw(cheetah[1])
            return (time.process_time()-start)/n
    if not software(gl_info()['renderer']): pytest.skip('a GPU draws here: shadows cost nothing')
    exact, fast = cpu('exact', 10), cpu('fast', 40)
    assert exact > 2*fast, f'{1/exact:.0f} and {1/fast:.0f} frames per CPU second'


def test_pictures_are_new_arrays_and_larger_than_the_frame_buffer(cheetah):
    with FastRenderer(cheetah[0], (500, 700)) as draw:
        first = draw(cheetah[1]); second = draw(cheetah[1])
        assert first.shape == (500, 700, 3) and first is not second and not np.shares_memory(first, second) and (first == second).all()


def test_closed_twice_and_not_used_after(cheetah):
    draw = FastRenderer(cheetah[0], 16); draw.close(); draw.close()
    with pytest.raises(RenderError, match='closed'): draw(cheetah[1])


def test_closing_one_renderer_leaves_the_others_whole(cheetah):
    "MuJoCo's own renderer frees in whatever context is current; also when the collector of garbage does it."
    model, data = cheetah
    keep = FastRenderer(model, 64, 'track', 'exact'); before = keep(data)
    for end in ('close', 'del'):
        other = FastRenderer(model, 48, 'track', 'exact'); other(data); keep(data)
        if end == 'close': other.close()
        del other
        assert (keep(data) == before).all()
    keep.close()


def test_quiet_at_the_end():
    "Renderers that nobody closed, dm_control beside them: nothing is printed."
    code = '''from vislearn.control.mujoco import make_dmc, make_metaworld
a = make_metaworld('MetaWorld-reach', size=16); b = make_dmc('DMC-cartpole-swingup', size=16); c = make_metaworld('MetaWorld-push', size=16)
for e in (a, b, c): e.reset(seed=0)'''
    out = fresh(code); assert (out.returncode, out.stderr) == (0, ''), out.stderr


def test_cuda_machine_with_software_renderer_is_warned(cheetah, monkeypatch):
    monkeypatch.setattr(render, '_gl', {}); monkeypatch.setattr(render, 'software', lambda renderer: True)
    monkeypatch.setattr(render.Path, 'exists', lambda self: str(self) == '/dev/nvidia0')
    with pytest.warns(UserWarning, match='CUDA card, but EGL draws with .* on the CPU'): FastRenderer(cheetah[0], 8).close()
    assert set(gl_info()) == {'renderer', 'vendor', 'version'}


@pytest.mark.parametrize('missing,root,expected', [('', 1, ''), ('libegl1', 0, 'pictures of simulators need: apt-get install libegl1 (as root)\n'), ('libegl1', 1, 'installed libegl1\n')])
def test_system_packages_script(tmp_path, missing, root, expected):
    "With made-up commands: installs only what is missing and only as root, never fails."
    def tool(name, text): (tmp_path/name).write_text('#!/bin/sh\n' + text); (tmp_path/name).chmod(0o755)
    tool('dpkg-query', f'for a; do last=$a; done; [ "$last" = "{missing}" ] && exit 1; echo "install ok installed"')
    tool('id', f'echo {0 if root else 1000}'); tool('apt-get', f'echo "$@" >> {tmp_path}/called')
    out = subprocess.run(['sh', TOP/'tools'/'system_packages.sh'], env=dict(PATH=f'{tmp_path}:/usr/bin:/bin'), capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (0, expected)
    calls = (tmp_path/'called').read_text() if (tmp_path/'called').exists() else ''
    assert bool(calls) == bool(missing and root) and ('libegl1' in calls) == bool(calls)


def test_system_packages_script_without_network(tmp_path):
    for name, text in (('dpkg-query', 'exit 1'), ('id', 'echo 0'), ('apt-get', 'exit 100')): (tmp_path/name).write_text('#!/bin/sh\n' + text); (tmp_path/name).chmod(0o755)
    out = subprocess.run(['sh', TOP/'tools'/'system_packages.sh'], env=dict(PATH=f'{tmp_path}:/usr/bin:/bin'), capture_output=True, text=True)
    assert out.returncode == 0 and re.search('need: apt-get install libegl1 .*the attempt failed', out.stdout)
