"vislearn control as a user types it: the three lines of the original, its files, grids, what is refused, what survives a kill"
import contextlib, errno, io, json, os, pickle, shlex, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, psutil, pytest, torch
from vislearn import callbacks
from vislearn.cli.main import main
from vislearn.control import collect as collect_module, embed as embed_module
from vislearn.control.beside import played_epochs
from vislearn.control.importers import read_trajs
from vislearn.control.pickles import read_pickle
from vislearn.control.results import read_results
from vislearn.control.trajs import open_trajs
from vislearn.core import real_data
from vislearn.movies import Look, read_video
from vislearn.runs.record import Run
from test_procs import gone

TOP = Path(__file__).parents[1]
COMMANDS = 'collect embed train grid eval show'.split()
TRAIN = '--cpu --dirty record --epochs 2 model.params.widths=[16]'


def shell(words, **env):
    "Arguments and environment of a real process."
    return dict(args=[sys.executable, '-m', 'vislearn', *map(str, words)], env=os.environ | dict(PYTHONPATH=str(TOP), OMP_NUM_THREADS='1', TQDM_DISABLE='1') | env)


def call(line, *more):
    "Type a line; exit code, stdout and stderr."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main(shlex.split(line) + [str(m) for m in more])
        except SystemExit as e: code = e.code
    return code, out.getvalue(), err.getvalue()


def works(line, *more):
    code, out, err = call(line, *more); assert code == 0, err
    return out


def fails(line, *more):
    "The one line on stderr."
    code, out, err = call(line, *more)
    assert code in (1, 2) and err.count('\n') == 1 and err.startswith('vislearn') and 'Traceback' not in err and len(err) < 500, (code, out, err)
    return err


def frames(film): return list(read_video(film, Look(None)))


def last_run(out): return Run(out.strip().splitlines()[-1])


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Demonstrations of two environments as stores and pickles, and a trained policy."
    top = tmp_path_factory.mktemp('control')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top); patch.setenv('VISLEARN_CACHE', str(top/'cache')); patch.delenv('PVR_MODEL_PATH', raising=False)
        works('control collect --env Reach-goal,MiniGrid-Empty-5x5-v0 --n_trajectories 10 --pickle --workers 1'); works('control collect --env Reach-discrete --n_trajectories 10')
        run = last_run(works(f'control train --env Reach-goal --embedding_name random3 {TRAIN} --num_episodes_test 4 --xpid first'))
        yield top, run.dir.resolve()


@pytest.fixture(autouse=True)
def here(made, monkeypatch): monkeypatch.chdir(made[0]); monkeypatch.setenv('VISLEARN_CACHE', str(made[0]/'cache')); monkeypatch.delenv('PVR_MODEL_PATH', raising=False); return made[0]


# ---- what works

@pytest.mark.parametrize('word', COMMANDS)
def test_help_has_an_example(word):
    code, out, _ = call(f'control {word} --help'); assert code == 0 and f'example:\n  vislearn control {word} ' in out


def test_help_of_the_family_and_the_demo():
    code, out, _ = call('control --help'); assert code == 0 and all(f'    {w} ' in out for w in COMMANDS)
    assert 'vislearn demo control' in call('demo control --help')[1] and 'control' in call('--help')[1]


@pytest.mark.parametrize('env', ['Reach-goal', 'MiniGrid-Empty-5x5-v0'])
def test_three_lines_of_the_original(env):
    "Collect, embed, train: the flags of the original, and what it printed."
    out = works(f'control collect --env={env} --n_trajectories=10 --workers 1'); assert out.startswith(f'10 trajectories of {env}') and out.splitlines()[-1] == f'demos/{env}'
    out = works(f'control embed --env={env} --embedding_name=random3 --cpu'); where = Path(out.split()[-1]); assert out.startswith(f'{env}_random3') and (where/'meta.json').exists()
    out = works(f'control train --env={env} --embedding_name=random3 {TRAIN} --unroll_length 8 --num_episodes_test 3').splitlines(); run = Run(out[-1])
    assert out[0] == '======== Run Recap ========' and out[1] == 'embedding: random3 (frozen)' and out[2] == f'environments: {env}' and out[-2] == '=========== End ===========' and sum(l.startswith(f'   ___ 2 | {env} : return ') for l in out) == 1
    assert run.status['state'] == 'finished' and sorted(played_epochs(run)) == [0, 1, 2] and run.config.data.train.params['window'] == 8
    assert len(list((where.parents[0]).glob('*/meta.json'))) >= 1 and str(where) in works(f'control embed --env={env} --embedding_name=random3 --cpu') # trained on these very features: nothing new was embedded


@pytest.mark.slow
def test_three_lines_with_rooms(tmp_path):
    "Real processes, a real simulator, a pretrained network: what stands in the place of the original's example."
    def go(line): got = subprocess.run(**shell(shlex.split(line), VISLEARN_CACHE=str(tmp_path/'cache')), cwd=tmp_path, capture_output=True, text=True, timeout=280); assert got.returncode == 0, got.stderr; return got.stdout
    go('control collect --env=ImageNav-one_room --n_trajectories 4 --workers 1'); go('control embed --env=ImageNav-one_room --embedding_name=mobilenet --cpu')
    out = go(f'control train --env=ImageNav-one_room --embedding_name=mobilenet {TRAIN} --num_episodes_test 2 data.eval.params.epochs=[2] data.eval.params.copies=2'); run = Run(tmp_path/out.splitlines()[-1])
    assert 'embedding: mobilenet (frozen)' in out and '   ___ 2 | ImageNav-one_room : return ' in out and run.status['state'] == 'finished'
    facts = json.loads(go(f'control eval --model {run.dir} --num_episodes_test 2 --num_envs 2 --film films --films 1 --cpu --json')); film = next((tmp_path/'films').glob('*.mp4'))
    assert facts[0]['episodes'] == 2 and len(frames(film)) > 1


def test_json_is_nothing_but_json():
    facts = json.loads(works('control collect --env MiniGrid-Empty-5x5-v0,Reach-discrete --n_trajectories 10 --workers 1 --json')); assert [f['env'] for f in facts] == ['MiniGrid-Empty-5x5-v0', 'Reach-discrete'] and all(f['trajectories'] == 10 and f['failed'] == 0 for f in facts)


def test_pickles_go_in_and_out(here, tmp_path):
    "Collect writes the pickle of the original, embed reads it and writes <env>_<embedding>.pickle, train takes either; playing works without the raw file, too."
    old = read_pickle('demos/Reach-goal.pickle'); store = open_trajs('demos/Reach-goal'); assert np.array_equal(old.frames[:], store.frames[:]) and np.array_equal(old.goals[:], store.goals[:]) and np.array_equal(old.action[:], store.action[:])
    for name in ('raw', 'features'): (tmp_path/name).mkdir()
    (tmp_path/'raw'/'Reach-goal.pickle').write_bytes(Path('demos/Reach-goal.pickle').read_bytes())
    made = Path(works(f'control embed --env Reach-goal --embedding_name random3,random2 --cpu --data_path {tmp_path/"raw"}').splitlines()[0].split()[-1]); assert made == tmp_path/'raw'/'Reach-goal_random3.pickle' and (tmp_path/'raw'/'Reach-goal_random2.pickle').exists()
    with made.open('rb') as fh: values = pickle.load(fh) # the original would read it
    assert set(values) >= {'obs', 'action', 'done', 'true_state'} and values['obs'][0].dtype == np.float32 and values['obs'][0].ndim == 2 and values['done'][0][-1] and len(values['obs']) == 10
    assert 'was there' in works(f'control embed --env Reach-goal --embedding_name random3 --cpu --data_path {tmp_path/"raw"}') and made.replace(tmp_path/'features'/made.name)
    runs = [last_run(works(f'control train --env Reach-goal --embedding_name random3 {TRAIN} --num_episodes_test 3 --data_path {tmp_path/f}')) for f in ('raw', 'features')]
    tables = [played_epochs(r)[2]['Reach-goal'].episodes for r in runs]; assert tables[0] == tables[1] and len(tables[0]) == 3 # the same features, the same policy
    assert works(f'control train --env Reach-goal --embedding_name true_state {TRAIN} --num_episodes_test 0 --data_path {tmp_path/"raw"}')


def test_imports(here, tmp_path):
    "A pickle, an npz file and a real drive by --from_file; the drive trains without being played."
    drive, table = real_data('robot_video/donkeycar_tub_1000.tar.gz'), real_data('robot_video/pusht_episode0_96px.npz'); folder = f'--data_path {tmp_path}'
    assert works(f'control collect --env car {folder} --from_file {drive}').startswith('1 trajectories of donkeycar, 1000 to 1000 steps') and read_trajs(tmp_path/'car').frames.shape == (1000, 120, 160, 3)
    facts = json.loads(works(f'control collect --env pusht {folder} --from_file {table} --json')); assert facts[0]['trajectories'] == 2 and len(read_trajs(tmp_path/'pusht')) == 2
    works(f'control collect --env Reach-goal {folder} --from_file demos/Reach-goal.pickle'); assert open_trajs(tmp_path/'Reach-goal').action_space == ('discrete', 4) # that of the environment, not of the moves that occur
    file = tmp_path/'x.pickle'; file.write_bytes(Path('demos/MiniGrid-Empty-5x5-v0.pickle').read_bytes()); first = works(f'control collect --env x {folder} --from_file {file}')
    file.write_bytes(Path('demos/Reach-goal.pickle').read_bytes()); assert works(f'control collect --env x {folder} --from_file {file}').split()[-1] == first.split()[-1] and open_trajs(tmp_path/'x').frames.shape[1:3] == (32, 32) # a new file under the old name is a new set
    assert "unknown environment 'pusht'" in (err := fails(f'control train --env pusht {folder} --embedding_name random2 {TRAIN}')) and '--num_episodes_test 0' in err
    run = last_run(works(f'control train --env pusht {folder} --embedding_name random2 {TRAIN} --num_episodes_test 0 --num_trajectories_train 1')); assert run.config.data.eval is None and run.status['state'] == 'finished'


def test_eval_plays_the_same_episodes_again(here, made, tmp_path):
    run = made[1]; line = f'control eval --model {run} --num_episodes_test 5 --cpu'; one, two = (json.loads(works(line, *more)) for more in (['--json'], ['--json', '--num_envs', 2])); assert one == two and one[0]['episodes'] == 5 and one[0]['env'] == 'Reach-goal'
    out = works(line, '--film', tmp_path/'films', '--films', 2); films = sorted((tmp_path/'films').glob('*.mp4')); assert out.split()[:2] == ['environment', 'episodes'] and [f.name for f in films] == ['Reach-goal-2000000.mp4', 'Reach-goal-2000001.mp4']
    table = json.loads((run/'artifacts'/'rollouts'/'eval-2000000-Reach-goal.json').read_text()); assert [len(frames(f)) for f in films] == [e['length'] + 1 for e in table['episodes'][:2]] and frames(films[0])[0].shape == (128, 128, 3)
    assert json.loads(works(line, '--best', '--json'))[0]['episodes'] == 5 and works('control eval --random --env Reach-goal,CartPole-v1 -n 3').count('\n') == 3


def test_show_draws_whatever_it_is_given(made, tmp_path):
    top, run = made
    for k, (what, said) in enumerate({'Reach-goal': 'obs pixels', 'demos/Reach-goal': '10 trajectories', 'demos/Reach-goal.pickle': '10 trajectories', str(run): 'epoch', 'MiniGrid-Empty-5x5-v0': 'minigrid'}.items()):
        out = works(f'control show {what} --index 1 --out {tmp_path/f"{k}.png"}'); assert said in out and (tmp_path/f'{k}.png').read_bytes()[:4] == b'\x89PNG'


def test_flags_of_the_original_reach_the_config(made):
    import yaml
    out = works('control train --env A,B --embedding_name moco_aug_l3 --epochs 7 --batch_size 4 --unroll_length 50 --learning_rate 3e-4 --alpha .9 --momentum .1 --epsilon 1e-6 --max_grad_norm 5 --seed 9 --cpus_per_task 2 --num_trajectories_train 30 --num_episodes_test 6 --num_input_frames 2 '
        '--frame_stack_mode diff --frame_skips 2 --xpid mine --save_path there --batch_norm --dry_run --data_path d'); cfg = yaml.safe_load(out); p = cfg['data']['train']['params']
    assert yaml.safe_load(works('control train seed=4 --env A train.epochs=3 --dry_run loss.name=ce'))['train']['epochs'] == 3 # words between flags
    assert cfg['optim']['params'] == dict(alpha=.9, eps=1e-6, momentum=.1) and cfg['optim']['lr'] == 3e-4 and (cfg['train']['epochs'], cfg['train']['batch_size'], cfg['train']['clip_norm'], cfg['seed'], cfg['data']['num_workers'], cfg['label'], cfg['out'], cfg['data']['root']) == (7, 4, 5., 9, 2, 'mine', 'there', 'd')
    assert (p['window'], p['num_trajectories'], p['stack'], p['stack_mode'], p['skip']) == (50, 30, 2, 'diff', 2) and cfg['data']['eval']['params']['episodes'] == 6 and cfg['data']['common']['env'] == ['A', 'B']
    debug = yaml.safe_load(works('control train --env A --embedding_name true_state --preset cortexbench --debug --dry_run')); p = debug['data']['train']['params']; assert (p['obs'], p['num_trajectories'], p['proprio'], p['stack'], debug['data']['eval']['params']['episodes'], debug['data']['common']['encoder']) == ('state', 20, False, 1, 2, None)


def test_flags_change_a_recipe(made):
    "Given explicitly, they hold over the recipe; words of the config hold over both; what is not given stays."
    import yaml
    read = lambda more: yaml.safe_load(works(f'control train --dry_run --recipe {more}'))
    plain, cfg = read('bc_pvr_lstm'), read('bc_pvr_lstm --epochs 2 --seed 77 --xpid mine --batch_size 5 --num_trajectories_train 3 --embedding_name random3 --data_path there --num_episodes_test 4 --frame_stack_mode diff --no_batch_norm --weights w --save_path out --momentum .3 train.amp=bf16')
    p = cfg['data']['train']['params']; assert (cfg['train']['epochs'], cfg['seed'], cfg['label'], cfg['train']['batch_size'], p['num_trajectories'], cfg['data']['common']['encoder'], cfg['data']['root'], cfg['data']['eval']['params']['episodes'], p['stack_mode'], cfg['model']['params']['batch_norm'], cfg['data']['common']['weights'], cfg['out'], cfg['optim']['params']['momentum'], cfg['train']['amp']) == (2, 77, 'mine', 5, 3, 'random3', 'there', 4, 'diff', False, 'w', 'out', .3, 'bf16')
    assert (p['window'], cfg['optim']['lr'], cfg['optim']['params']['alpha'], cfg['schedule']) == (plain['data']['train']['params']['window'], 1e-4, .99, plain['schedule']) and plain['data']['eval'] is None and plain['data']['root'] != 'there' # the rest is the recipe's
    assert read('bc_pvr_lstm')['train']['epochs'] == 100 and read('bc_pvr_lstm --epochs 2 train.epochs=3')['train']['epochs'] == 3 and read('bc_pvr_lstm epochs=4 --seed 5')['train']['epochs'] == 4
    mlp = read('bc_pvr_lstm --disable_lstm'); assert (mlp['model']['params']['core'], mlp['data']['train']['params']['mode'], mlp['train']['batch_size']) == ('mlp', 'step', 1600) and read('bc_pvr_lstm --disable_lstm --batch_size 7')['train']['batch_size'] == 7
    state = read('bc_pvr_lstm --embedding_name true_state'); assert (state['data']['common']['encoder'], state['data']['train']['params']['obs'], state['model']['params']['batch_norm']) == (None, 'state', False)
    seen = read('bc_nano --embedding_name random2'); assert (seen['data']['common']['encoder'], seen['data']['train']['params']['obs'], seen['model']['params']['batch_norm'], seen['data']['train']['params']['mode']) == ('random2', 'pixels', True, 'step') and read('bc_nano --num_episodes_test 0')['data']['eval'] is None and read('bc_nano --debug')['data']['train']['params']['num_trajectories'] == 20
    assert '--recipe and --preset: give one of them' in fails('control train --recipe bc_nano --preset r3m')


def test_flags_of_features_and_of_held_out_demonstrations(made):
    import yaml
    cfg = yaml.safe_load(works('control train --env A --bf16 --preprocess modern --weights w --valid_share 0 --frame_skips 2 --frame_skip_mode max --dry_run')); src = cfg['data']['common']
    assert (src['dtype'], src['preprocess'], src['weights'], cfg['data']['train']['params']['valid_share'], cfg['data']['train']['params']['skip'], cfg['data']['eval']['params']['options']) == ('bfloat16', 'modern', 'w', 0., 2, dict(skip_mode='max'))
    plain = yaml.safe_load(works('control train --env A --dry_run')); assert (plain['data']['common']['dtype'], plain['data']['common']['preprocess'], plain['data']['train']['params']['valid_share'], plain['data']['root'], plain['data']['common']['encoder'], plain['data']['eval']['params']['episodes']) == ('float32', 'legacy', .1, 'demos', 'random5', 50)
    text = ' '.join(works_help('train').split()); assert 'a tenth of them is held out, see --valid_share' in text and 'with --disable_lstm single steps (1600)' in text and 'several: ' not in text


def works_help(word): code, out, _ = call(f'control {word} --help'); assert code == 0; return out


def test_features_embedded_with_other_settings_are_found(here):
    "embed --bf16 --preprocess modern, then train with the same flags: nothing is embedded again."
    how = '--env Reach-goal --embedding_name random4 --bf16 --preprocess modern'; count = lambda: len(list(Path('cache/embs').glob('*/meta.json')))
    works(f'control embed {how} --cpu'); n = count(); works(f'control train {how} {TRAIN} --num_episodes_test 0'); assert count() == n
    code, out, err = call(f'control train --env Reach-goal --embedding_name random4 {TRAIN} --num_episodes_test 0'); assert code == 0 and count() == n + 1 # other features are other features, and that is said
    assert err.count('\n') == 1 and 'features of random4 are stored, made with dtype bfloat16' in err and 'now it is dtype float32' in err and '--bf16, --preprocess, --weights' in err
    assert call(f'control train --env Reach-goal --embedding_name random4 {TRAIN} --num_episodes_test 0')[2] == ''


def test_flags_of_several_processes_are_accepted(made):
    "As the original was started by torchrun or Slurm: one line says what takes their place."
    code, out, err = call('control train --env A --world_size 4 --dist_url env:// --dist_backend nccl --rank 0 --local_rank -1 --dry_run'); assert code == 0 and err.count('\n') == 1 and 'no effect, this is one process' in err and 'vislearn run bc.yaml --nproc 4' in err and 'world_size' not in out
    assert call('control train --env A --dry_run')[2] == ''


def test_unknown_flags_name_the_command(made):
    err = fails('control train --env A --epoch_s 3'); assert err.startswith("vislearn control train: unrecognized arguments: --epoch_s (did you mean '--epochs'?)") and 'see vislearn control train --help' in err
    err = fails('control show Reach-goal --wat'); assert err.startswith('vislearn control show: ') and fails('demo control --wat').startswith('vislearn demo control: ')


def test_code_outside_of_git_is_refused_at_once(tmp_path):
    "In a fresh process, before anything heavy is imported, and in words that fit the command."
    script = 'import sys; from vislearn.cli.main import main; code = main(sys.argv[1:]); print(code, *[m for m in ("fastai", "vislearn.control.bc", "torchvision") if m in sys.modules])'
    go = lambda line: subprocess.run([sys.executable, '-c', script, *line.split()], cwd=tmp_path, env=shell([])['env'], capture_output=True, text=True, timeout=100)
    for word, instead in (('train', '--disable_save'), ('grid', None)):
        got = go(f'control {word} --env Reach-goal --embedding_name random3'); assert got.stdout == '3\n' and got.stderr.count('\n') == 1 and 'not in a git repository' in got.stderr and '--dirty=record' in got.stderr and '--allow-dirty-repo' not in got.stderr and (instead or '--dirty') in got.stderr, (got.stdout, got.stderr)


def test_tables_of_a_run(made, tmp_path):
    "What the original kept as <xpid>.pickle: arrays of epochs + 1 numbers, NaN where nothing was measured."
    run = made[1]; tables = []
    for end in ('pickle', 'npz', 'csv'): out = works(f'control show {run} --out {tmp_path/"t"}.{end}'); assert out.strip() == f'{tmp_path/"t"}.{end}'; tables.append(read_results(tmp_path/f't.{end}'))
    with (tmp_path/'t.pickle').open('rb') as fh: plain = pickle.load(fh) # as scripts of the original do
    assert type(plain) is dict and list(plain) == ['epoch', 'training_loss', 'gradient_norm', 'Reach-goal'] and plain['epoch'].tolist() == [0, 1, 2] and np.isnan(plain['training_loss'][0]) and np.isfinite(plain['training_loss'][1:]).all() and plain['epoch'].dtype == np.float64
    played = played_epochs(Run(run)); assert type(plain['Reach-goal']) is dict and all(plain['Reach-goal']['episode_return'][e] == played[e]['Reach-goal'].returns.mean() for e in range(3)) and np.isfinite(plain['Reach-goal']['episode_success']).all()
    for t in tables: assert all(np.array_equal(t[k], plain[k], equal_nan=True) for k in list(plain)[:3]) and np.array_equal(t['Reach-goal']['episode_return'], plain['Reach-goal']['episode_return'])
    assert 'is known of runs' in fails(f'control show demos/Reach-goal --out {tmp_path/"t.csv"}') and 'ending in .png, .pdf or .svg, or .csv' in fails(f'control show {run} --out {tmp_path/"t.doc"}')
    silent = last_run(works(f'control train --env Reach-goal --embedding_name true_state {TRAIN} --num_episodes_test 0')); works(f'control show {silent.dir} --out {tmp_path/"s.csv"}'); assert np.isnan(read_results(tmp_path/'s.csv')['Reach-goal']['episode_return']).all() # a run that was never played has a table, too


def test_xpid_names_the_run_and_its_folder(here, tmp_path):
    "As in the original: the same line again goes on, a finished run is left alone; another config under the old name is refused."
    line = f'control train --env Reach-goal --embedding_name true_state {TRAIN} --num_episodes_test 2 --xpid my-run'; run = last_run(works(line)); assert run.dir == Path('runs/control.bc/my-run') and run.config.label == 'my-run'
    for word in ('eval -n 2 --cpu --model', 'show'): works(f'control {word} my-run')
    before = (run.dir/'ckpt'/'last.pt').stat().st_mtime_ns; assert works(line).splitlines() == ['my-run: already completed', 'runs/control.bc/my-run'] and (run.dir/'ckpt'/'last.pt').stat().st_mtime_ns == before
    (run.dir/'DONE').unlink(); assert works(line).splitlines()[-1] == 'runs/control.bc/my-run' and Run('my-run').status['state'] == 'finished'
    assert 'with seed=1, now it is 5: choose another --xpid' in fails(f'{line} --seed 5') and 'it names a folder' in fails(line.replace('my-run', '../x')) and not Path('runs/x').exists()
    works(f'{line} --save_path {tmp_path}'); assert Run(tmp_path/'control.bc'/'my-run').status['state'] == 'finished'


def test_the_bar_of_training_has_its_old_name(here, monkeypatch):
    said, real = [], callbacks.progress; monkeypatch.setattr(callbacks, 'progress', lambda items, desc, **k: said.append(desc) or real(items, desc, **k))
    works(f'control train --env Reach-goal --embedding_name true_state {TRAIN} --num_episodes_test 0'); assert said == ['epoch']


@pytest.mark.parametrize('name, env, said', [('random3', 'Reach-discrete', 'it shows no picture of a goal, the policy was trained in Reach-goal with one'), ('true_state', 'MiniGrid-Empty-5x5-v0', 'its state has 59 numbers, the policy was trained in Reach-goal with 4'), ('true_state', 'Reach-continuous', 'its actions are continuous (2), the policy was trained in Reach-goal with discrete ones (4)')])
def test_eval_elsewhere_says_what_is_missing(here, name, env, said):
    run = last_run(works(f'control train --env Reach-goal --embedding_name {name} {TRAIN} --num_episodes_test 0')); err = fails(f'control eval --model {run.dir} --env {env} -n 2 --cpu'); assert err.startswith(f'vislearn: --env {env}: {said}')


def test_show_of_what_is_gone(here, tmp_path):
    Path('demos/gone').symlink_to(tmp_path/'store'); err = fails('control show demos/gone'); Path('demos/gone').unlink(); assert f'demos/gone: points to {tmp_path/"store"}, and there is no such folder any more' in err
    assert 'demos/nothing: no such file or folder' in fails('control show demos/nothing') and 'x.pickle: no such file' in fails('control show x.pickle') and "did you mean 'Atari-Pong'" in fails('control show ALE/Pnog-v5')


def test_disable_save_and_cache(here, tmp_path, monkeypatch):
    monkeypatch.delenv('VISLEARN_CACHE'); before = set(Path('runs').rglob('*')); out = works(f'control train --env Reach-goal --embedding_name random1 {TRAIN} --num_episodes_test 0 --disable_save --cache {tmp_path/"c"}')
    assert out.rstrip().endswith('End ===========') and set(Path('runs').rglob('*')) == before and list((tmp_path/'c'/'embs').glob('*/meta.json')) and 'VISLEARN_CACHE' not in os.environ


# ---- grids

def test_a_grid_is_listed_first(here):
    out = works('control grid --env Reach-goal,Reach-discrete --embedding_name random,random3,true_state --seeds 3,1,3 --name try --dry_run').splitlines(); labels = [l.split()[1] for l in out[1:-1]]
    assert labels[:2] == ['try_eReach-goal_enrandom5_s3', 'try_eReach-goal_enrandom5_s1'] and len(labels) == 12 and labels[-1] == 'try_eReach-discrete_entrue_state_s1' and out[-1] == '12 runs; nothing was created' and not Path('runs/sweeps').exists()


@pytest.mark.slow
def test_grid_trains_and_shows(here, tmp_path):
    out = works(f'control grid --env Reach-goal --embedding_name random3,true_state --seeds 1,2 --parallel 2 --num_episodes_test 3 {TRAIN} --save_path {tmp_path/"runs"}').splitlines(); folder = Path(out[0])
    assert folder.parent == tmp_path/'runs'/'sweeps' and [l.split()[:5] for l in out[-2:]] == [['Reach-goal', e, '2', 'of', '2'] for e in ('random3', 'true_state')] and any(l.startswith('Reach-goal_random3') for l in out)
    rows = json.loads(works(f'control show {folder} --json --out {tmp_path/"bars.png"}').rsplit(']', 1)[0] + ']'); assert [(r['embedding'], r['finished'], r['measure']) for r in rows] == [('random3', 2, 'success'), ('true_state', 2, 'success')] and (tmp_path/'bars.png').exists()
    assert 'all 4 runs are finished already' in works(f'sweep resume {folder}')


# ---- what is refused: one line, exit code 1 or 2, nothing made

@pytest.fixture(scope='module')
def bad(made):
    "Pickles and checkpoints that do not fit."
    folder = made[0]/'bad'; folder.mkdir(); T = 3; good = dict(obs=[np.zeros((T, 32, 32, 3), np.uint8)]*2, action=[np.zeros(T, np.int64)]*2, done=[np.array([0, 0, 1], bool)]*2, true_state=[np.zeros((T, 4), np.float32)]*2)
    change = dict(missing=dict(done=None), ragged=dict(action=[np.zeros(T, np.int64), np.zeros(2, np.int64)]), fewer=dict(action=[np.zeros(T, np.int64)]), dtype=dict(obs=[np.zeros((T, 32, 32, 3), np.float32)]*2), objects=dict(action=[np.array([1, 'a', None], object)]*2), outside=dict(action=[np.array([0, 7, 1])]*2), sizes=dict(obs=[np.zeros((T, 32, 32, 3), np.uint8), np.zeros((T, 16, 32, 3), np.uint8)]), cut=dict(done=[np.zeros(T, bool)]*2))
    for name, values in change.items(): (folder/f'{name}.pickle').write_bytes(pickle.dumps({k: v for k, v in (good | values).items() if v is not None}))
    class Evil:
        def __reduce__(self): return os.system, (f'touch {folder/"evil"}',)
    (folder/'forbidden.pickle').write_bytes(pickle.dumps(Evil())); (folder/'short.pickle').write_bytes(pickle.dumps(good)[:-50]); (folder/'text.pickle').write_text('hello'); (folder/'Reach-discrete.pickle').write_bytes((folder/'outside.pickle').read_bytes())
    torch.save(dict(state_dict={'module.encoder_q.conv1.weight': torch.zeros(3, 3)}), folder/'moco_aug.pth.tar'); torch.save(dict(model=dict(x=torch.zeros(1))), folder/'moco_aug_l3.pth'); (folder/'mae_pretrain_vit_base.pth').write_text('no'); torch.save({'conv1.weight': torch.zeros(2)}, folder/'resnet50.pth')
    return folder


@pytest.mark.parametrize('name, said', [('missing', "missing.pickle: no 'done': expected a dict with obs, action, done"), ('ragged', 'ragged.pickle: ragged/1: keys of different lengths: obs 3, action 2'), ('fewer', 'fewer.pickle: different numbers of trajectories: obs 2, action 1'),
    ('dtype', 'dtype.pickle: dtype/0: obs are pictures and must be uint8, got float32'), ('objects', "objects.pickle: it holds an array of type 'O8'"), ('outside', 'outside.pickle: outside/0: action 7 at step 1 is outside the space, 0 to 3'), ('sizes', 'sizes.pickle: sizes/1: frames is (16, 32, 3)'),
    ('cut', 'cut.pickle: cut/0: done is false on its last step'), ('forbidden', 'forbidden.pickle: it asks for posix.system, which could run a program'), ('short', 'short.pickle: this pickle is cut short'), ('text', 'text.pickle: no pickle of arrays'), ('none', 'none.pickle: no such file')])
def test_bad_pickles(bad, name, said, tmp_path):
    assert said in fails(f'control collect --env Reach-discrete --from_file {bad/name}.pickle --data_path {tmp_path/"d"}') and not (tmp_path/'d').exists() and not (bad/'evil').exists()


@pytest.mark.parametrize('name, said', [('moco_aug', 'moco_aug.pth.tar: weights of another network: bn1.weight missing'), ('moco_aug_l3', "moco_aug_l3.pth: no 'state_dict' inside (found model): a MoCo network with compressed layer 3 is expected"), ('mae_base', 'mae_pretrain_vit_base.pth: not a readable checkpoint'),
    ('resnet50', 'resnet50.pth: weights of another network'), ('moco_croponly', 'moco_croponly: expected its weights as moco_croponly.pth in ')])
def test_checkpoints_that_do_not_fit(bad, name, said, monkeypatch):
    monkeypatch.setenv('PVR_MODEL_PATH', str(bad)); err = fails(f'control embed --env Reach-goal --embedding_name {name} --cpu'); assert said in err and 'weights_only' not in err and (name != 'moco_croponly' or str(bad) in err)
    assert said.split(':')[0] in fails(f'control train --env Reach-goal --embedding_name {name} {TRAIN} --num_episodes_test 0 --save_path {bad/"runs"}') and not (bad/'runs').exists()


@pytest.mark.parametrize('line, said', [
    ('collect --env Reach-discret', "did you mean 'Reach-discrete'"), ('collect --env MiniGrid-DorKey-5x5-v0', "did you mean 'MiniGrid-DoorKey-5x5-v0'"), ('collect --env ImageNav-oneroom', "did you mean 'ImageNav-one_room'"), ('collect --env DMC-walker-wlak', "did you mean 'DMC-walker-walk'"), ('collect --env Atari-Pnog', "did you mean 'Atari-Pong'"),
    ('collect --env MetaWorld-drawer-opn', "did you mean 'MetaWorld-drawer-open'"), ('collect --env HabitatImageNav-room_0', 'needs habitat-sim'), ('collect --env ,', '--env: name at least one'), ('collect --env Reach-goal --n_trajectories 0', '--n_trajectories: expected at least 1'), ('collect --env Reach-goal --seed -1', '--seed: expected 0 or more'),
    ('collect --env Reach-goal --size 3 4 5', '--size: expected one or two numbers'), ('collect --env Reach-goal --size 2', 'from 16 to 4096, got 2'), ('collect --env Reach-goal --expert nobody', "no expert 'nobody'"), ('collect --env a,b --from_file x', 'name one environment'), ('collect --env Reach-goal --frame_skips 0', '--frame_skips'),
    ('embed --env Reach-goal --embedding_name squeeznet', "did you mean 'squeezenet'"), ('embed --env Reach-goal --embedding_name random3,squeeznet', "did you mean 'squeezenet'"), ('embed --env Reach-goal --embedding_name true_state', 'nothing to embed'), ('embed --env Reach-goal --embedding_name maskrcnn_l3', 'detectron2'), ('embed --env Reach-goal --embedding_name run:nope', 'no run nope'),
    ('embed --env Reach-gaol --embedding_name random3', 'demos has neither Reach-gaol nor Reach-gaol.pickle: record them'), ('embed --env Reach-goal --embedding_name random3 --data_path nowhere', 'nowhere has neither'), ('embed --env Reach-goal --embedding_name resnet50 --weights no.pth', 'no.pth: no such weights file'), ('embed --env Reach-goal --embedding_name random3 --parallel 0', '--parallel'),
    ('embed --env Reach-goal --embedding_name random3 launch.partition=x', '--slurm only'), ('embed --env Reach-goal --embedding_name random3 partition=x --slurm', 'expected launch.KEY=VALUE'), ('embed --env Reach-goal --embedding_name random3 --batch_size 0', '--batch_size'), ('embed --env Reach-goal --embedding_name random3@l9', "no layer 'l9'"),
    ('train', 'train where?'), ('train --env Reach-goal --embedding_name squeeznet', "did you mean 'squeezenet'"), ('train --env Reach-gaol', "did you mean 'Reach-goal'"), ('train --env Reach-decoy', "no demonstrations of 'Reach-decoy'"), ('train --env Reach-goal --data_path nowhere', 'nowhere is not there'), ('train --env Reach-goal --frame_skips 3', 'was recorded with 1 simulator steps'),
    ('train --env Reach-goal data.train.params.size=[64,64]', 'was recorded with 32x32'), ("train --env Reach-goal 'data.eval.params.options={size: 64}'", 'size is 64, the demonstrations have [32, 32]: they must agree'), ("train --env Reach-goal 'data.eval.params.options={sise: 64}'", "unexpected keyword argument 'sise'"), ('train --env Reach-goal,MiniGrid-Empty-5x5-v0', 'cannot be joined'), ('train --env Reach-goal --num_episodes_test -1', '--num_episodes_test'), ('train --env Reach-goal --epochs 0', '--epochs'), ('train --env Reach-goal --learning_rate -1', 'optim.lr'),
    ('train --env Reach-goal model.params.widhts=[3]', "did you mean 'widths'"), ('train --env Reach-goal --recipe bc_nano', 'give one of them'), ('train --recipe svg_nano', 'expected one of control.bc'), ('train --env Reach-goal --preset pvr2', "invalid choice: 'pvr2'"), ('train --env Reach-discrete --data_path bad', 'action 7 at step 1 is outside the space, 0 to 3'), ('train --env Reach-goal --epochs x', "invalid int value: 'x'"),
    ('grid', 'grid of what?'), ('grid --env Reach-goal --seeds 1.5', "--seeds: expected whole numbers from 0, with commas, got '1.5'"), ('grid --env Reach-goal --seeds ,', '--seeds'), ('grid --env Reach-goal --seeds=-1', '--seeds'), ('grid --env Reach-goal --seeds 1,b', '--seeds'), ('grid --env Reach-goal --embedding_name random3,squeeznet', "did you mean 'squeezenet'"),
    ('grid --env Reach-goal,Reach-decoy', "no demonstrations of 'Reach-decoy'"), ('grid --env Reach-goal,Reach-discrete --joint', 'cannot be joined'), ('grid --env Reach-goal --parallel 0', '--parallel'), ('grid --env Reach-goal --name a/b', 'letters, digits'), ('grid --env Reach-discrete --data_path bad --embedding_name true_state', 'outside the space'),
    ('eval', 'eval what?'), ('eval --random', 'eval where?'), ('eval --random --model x', 'eval what?'), ('eval --random --env Reach-gaol', "did you mean 'Reach-goal'"), ('eval --random --env Reach-goal -n 0', '--num_episodes_test'), ('eval --model nope', 'no run nope'), ('show nope', "unknown environment 'nope'"), ('show demos/Reach-goal --index 99', 'demonstrations 0 to 9'),
    ('show demos/Reach-goal --out x.doc', 'ending in .png'), ('show bad/forbidden.pickle', 'could run a program'), ('show demos', 'no demonstrations of a known kind'), ('shwo', "invalid choice: 'shwo'")])
def test_mistakes_are_one_line(bad, line, said):
    before = set(Path('runs').rglob('*')); more = ' --cpu --dirty record' if line.split()[0] in ('train', 'grid') else ''
    assert said in fails(f'control {line}{more}') and set(Path('runs').rglob('*')) == before


def test_a_policy_of_other_demonstrations_is_refused(here, made, tmp_path):
    "States are not pictures, and a run of another kind plays nothing."
    works(f'control collect --env Reach-discrete --state_only --n_trajectories 3 --data_path {tmp_path}'); assert 'no pictures to embed, only' in fails(f'control embed --env Reach-discrete --embedding_name random3 --data_path {tmp_path}')
    assert 'neither frames nor features' in fails(f'control train --env Reach-discrete --embedding_name random3 --data_path {tmp_path} {TRAIN}'); (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'Reach-goal').mkdir()
    assert 'there is a folder of this name' in fails(f'control collect --env Reach-goal --n_trajectories 10 --workers 1 --data_path {tmp_path/"mine"}')


BLOCKED = '''
import contextlib, io, json, sys
from vislearn.cli.main import main
found = []
for module, line in json.loads(sys.argv[1]):
    names = [module, *(m for m in sys.modules if m.startswith(module + '.'))]; old = {m: sys.modules.get(m) for m in names}
    for m in names: sys.modules[m] = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err: code = main(line.split())
    for m, value in old.items():
        if value is None: del sys.modules[m]
        else: sys.modules[m] = value
    found.append((code, err.getvalue()))
print(json.dumps(found))
'''


def test_missing_extras_are_named(here, tmp_path):
    "As on a machine where they are not installed: one process, imports blocked one by one."
    wanted = [('minigrid', 'MiniGrid-Empty-5x5-v0', 'minigrid'), ('minigrid', 'BabyAI-GoToRedBall-v0', 'minigrid'), ('miniworld', 'ImageNav-one_room', 'miniworld'), ('miniworld', 'MiniWorld-Hallway-v0', 'miniworld'), ('mujoco', 'Adroit-pen', 'mujoco'), ('dm_control', 'DMC-walker-walk', 'mujoco'), ('metaworld', 'MetaWorld-drawer-open', 'mujoco'), ('ale_py', 'Atari-Pong', 'atari')]
    (tmp_path/'b.py').write_text(BLOCKED); lines = [(m, f'control {word} --env {env} {more}') for m, env, _ in wanted for word, more in (('collect', '--n_trajectories 1'), ('eval', '--random'))]
    got = subprocess.run([sys.executable, tmp_path/'b.py', json.dumps(lines)], cwd=here, env=shell([])['env'], capture_output=True, text=True, timeout=200); assert got.returncode == 0, got.stderr
    for (module, line), (code, err), extra in zip(lines, json.loads(got.stdout.splitlines()[-1]), [e for _, _, e in wanted for _ in range(2)]): assert code == 2 and err.count('\n') == 1 and f'pip install "vislearn[{extra}]"' in err and f'needs {module}' in err, (line, err)


@pytest.mark.parametrize('env, how', [('DMC-walker-walk', dict(MUJOCO_GL='glfw')), ('MetaWorld-drawer-open', dict(MUJOCO_GL='nonsense')), ('ImageNav-one_room', dict(PYGLET_HEADLESS='0'))])
def test_a_missing_renderer_names_the_package(here, env, how):
    got = subprocess.run(**shell(f'control collect --env {env} --n_trajectories 1 --workers 1 --data_path none'.split(), DISPLAY='', **how), cwd=here, capture_output=True, text=True, timeout=100)
    assert got.returncode == 2 and got.stderr.count('\n') == 1 and 'cannot render' in got.stderr and 'apt-get install' in got.stderr and not (here/'none').exists(), got.stderr


# ---- disks that are full, or cannot be written

@pytest.mark.parametrize('line, place', [('collect --env Reach-goal --n_trajectories 10 --workers 1 --data_path {}', 'file/x'), ('collect --env Reach-goal --n_trajectories 2 --workers 1 --cache {}', 'file'), ('embed --env Reach-goal --embedding_name random4 --cpu --cache {}', 'file/x'), ('embed --env Reach-goal --embedding_name random4 --cpu --cache {}', 'file'),
    ('train --env Reach-goal --embedding_name true_state ' + TRAIN + ' --num_episodes_test 0 --save_path {}', 'file'), ('eval --random --env Reach-goal -n 1 --film {}', 'file'), ('show demos/Reach-goal --out {}/a.png', 'file'), ('show Reach-goal --out {}/a.png', 'file')])
def test_places_that_cannot_be_written_are_one_line(here, tmp_path, line, place):
    (tmp_path/'file').write_text('x'); err = fails(f'control {line.format(tmp_path/place)}'); assert str(tmp_path/'file') in err and ('expected a folder' in err or 'a file is in the way' in err), err


@pytest.mark.parametrize('number, said', [(errno.ENOSPC, 'No space left on device: free some space'), (errno.EROFS, 'Read-only file system: choose a place'), (errno.EACCES, 'Permission denied: choose another place'), (None, 'No space left on device: free some space')])
def test_disk_errors_name_the_file_that_was_asked_for(here, tmp_path, monkeypatch, number, said):
    "Also where Python does not say which file, or, as NumPy, not even which error; and the clean-up does not raise on top."
    def broken(self, file, *args, **kwargs): raise OSError(number, os.strerror(number), None if number == errno.ENOSPC else str(file)) if number else OSError('393216 requested and 102336 written')
    def stuck(self, missing_ok=False): raise OSError(errno.EROFS, 'Read-only file system', str(self))
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', broken); monkeypatch.setattr(Path, 'unlink', stuck)
    assert fails(f'control show demos/Reach-goal --out {tmp_path/"a.png"}').startswith(f'vislearn: {tmp_path/"a.png"}: {said}')


def test_other_errors_of_the_system_keep_their_traceback(here, tmp_path, monkeypatch):
    def broken(*args, **kwargs): raise OSError(errno.EIO, 'Input/output error')
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', broken)
    with pytest.raises(OSError, match='Input/output'): main(['control', 'show', 'demos/Reach-goal', '--out', str(tmp_path/'a.png')])


@pytest.mark.skipif(os.geteuid() != 0 or not Path('/proc/mounts').exists(), reason='mounting a small tmpfs needs root')
def test_a_disk_that_is_really_full(here, tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=20k', 'tmpfs', tmp_path], capture_output=True).returncode: pytest.skip('mount of a tmpfs is not permitted here')
    try:
        (tmp_path/'fill').write_bytes(bytes(16_000))
        for line in (f'collect --env Reach-goal --n_trajectories 10 --workers 1 --pickle --data_path {tmp_path}', f'embed --env Reach-goal --embedding_name random6 --cpu --cache {tmp_path/"c"}', f'show demos/Reach-goal --out {tmp_path/"a.png"}', f'eval --random --env Reach-goal -n 1 --film {tmp_path/"films"}'):
            err = fails(f'control {line}'); assert ('No space left on device' in err or 'no room left' in err) and 'free some space' in err
        assert not [f for f in tmp_path.rglob('*') if f.suffix in ('.png', '.mp4', '.pickle') or '.tmp-' in f.name]
    finally: subprocess.run(['umount', '-l', tmp_path], check=True)


# ---- what survives a kill

def wait_for(test, job, seconds=90):
    end = time.monotonic() + seconds
    while not test(): assert time.monotonic() < end and job.poll() is None, 'it ended, or did not begin'; time.sleep(.005)


def kill(job):
    "As the system does when memory runs out; nobody may be left."
    children = [p.pid for p in psutil.Process(job.pid).children(recursive=True)] if job.poll() is None else []
    job.kill(); job.wait(); assert gone(children, 5)


def blocks(cache): return {f.name for f in cache.glob('trajs/.*.parts/block-*.npz')}


def test_P10_killed_collect_goes_on(tmp_path, monkeypatch):
    line = f'control collect --env MiniGrid-FourRooms-v0 --n_trajectories 150 --workers 1 --cache {tmp_path/"cache"} --data_path {tmp_path/"demos"}'; job = subprocess.Popen(**shell(shlex.split(line)), stdout=subprocess.DEVNULL)
    wait_for(lambda: len(blocks(tmp_path/'cache')) >= 2, job); kill(job); kept = blocks(tmp_path/'cache'); assert kept and not (tmp_path/'demos').exists()
    real, played = collect_module.play_expert, []; monkeypatch.setattr(collect_module, 'play_expert', lambda env, expert, seed: played.append(seed) or real(env, expert, seed)); works(line)
    done = {s for f in kept for size, k in [map(int, f.removesuffix('.npz').split('-')[1:])] for s in range(size*k, size*k + size)}; assert played and not done & set(played) and not blocks(tmp_path/'cache') # what was played is not played again
    again = open_trajs(tmp_path/'demos'/'MiniGrid-FourRooms-v0'); works(line.replace('/cache', '/other').replace('/demos', '/whole')); whole = open_trajs(tmp_path/'whole'/'MiniGrid-FourRooms-v0')
    assert len(again) == 150 and all(np.array_equal(again.arrays[k][:], whole.arrays[k][:]) for k in whole.arrays)


def test_P10_killed_embed_goes_on(tmp_path, monkeypatch):
    where = f'--env Reach-goal --cache {tmp_path/"cache"} --data_path {tmp_path/"demos"}'; works(f'control collect {where} --n_trajectories 500 --workers 1 --size 64'); frames = open_trajs(tmp_path/'demos'/'Reach-goal').steps
    line = f'control embed {where} --embedding_name random5 --cpu'; parts = lambda: list((tmp_path/'cache').glob('embs/.*.parts/*.npy')); job = subprocess.Popen(**shell(shlex.split(line)), stdout=subprocess.DEVNULL)
    wait_for(parts, job); kill(job); kept = len(parts()); assert kept and not list((tmp_path/'cache').glob('embs/*/meta.json'))
    real, seen = embed_module.embed_unique, []; monkeypatch.setattr(embed_module, 'embed_unique', lambda e, f, b: seen.append(len(f)) or real(e, f, b)); out = works(line)
    assert sum(seen) == frames + 500 - 1024*min(kept, frames//1024) - (frames % 1024 if kept > frames//1024 else 0) and 'was there' not in out and not parts() and 'was there' in works(line)
    emb = lambda text: np.load(sorted(Path(text.split()[-1]).glob('emb*.npy'))[0], mmap_mode='r'); assert np.array_equal(emb(out), emb(works(line.replace('/cache', '/other'))))


@pytest.mark.slow
def test_P10_a_simulator_killed_beside_training(tmp_path):
    "Training goes on, its worker is started again, the restart is counted, and nobody is left."
    where = f'--env ImageNav-one_room --cache {tmp_path/"cache"} --data_path {tmp_path/"demos"}'; works(f'control collect {where} --state_only --n_trajectories 6 --workers 1')
    line = f'control train {where} --embedding_name true_state --cpu --dirty record --epochs 20 model.params.widths=[16] --num_episodes_test 80 --save_path {tmp_path/"runs"} data.eval.params.epochs=[0,20] data.eval.params.copies=2 data.eval.params.workers=2'
    job = subprocess.Popen(**shell(shlex.split(line)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    def playing(): # workers wait for every action, so that they often give the processor away; not so while they start
        found = []
        for p in psutil.Process(job.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error): found += [p]*('spawn_main' in ' '.join(p.cmdline()) and p.num_ctx_switches().voluntary > 600)
        return found
    wait_for(lambda: len(playing()) >= 2, job); pids = [p.pid for p in playing()]; os.kill(pids[0], signal.SIGKILL)
    said = job.communicate(timeout=250)[0]; assert job.returncode == 0, said
    run = Run(tmp_path/'runs'/'control.bc'/said.splitlines()[-1].split('/')[-1]); played = played_epochs(run); first = played[0]['ImageNav-one_room']; assert run.status['state'] == 'finished' and sorted(played) == [0, 20] and (first.restarts, played[20]['ImageNav-one_room'].restarts) == (1, 0) and [e.seed for e in first.episodes] == list(range(10**6, 10**6 + 80))
    assert gone(pids, 5) and 'not evaluated' not in said
