"vislearn objects as a user types it: old flags and old files, what is written, what is refused"
import itertools, json
from importlib.util import find_spec
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from vislearn.cli.main import Parser, main
from vislearn.cli.objects import asked_config, change_old, train_args
from vislearn.objects.clips import ObjectClips
from vislearn.objects.evaluate import COLUMNS, evaluate_space, read_csv
from vislearn.objects.legacy import save_space_checkpoint
from vislearn.objects.probes import FewShotProbe
from vislearn.objects.recipes import moc_config, space_config
from vislearn.objects.space import Space, SpaceConfig
from vislearn.runs.config import RunConfig, load_config, parse_yaml
from vislearn.runs.naming import space_name
from vislearn.runs.record import Run
from vislearn.runs.sweep import expand, load_sweep

OLD = '''exp_name: 'atari_pong'
dataset: 'ATARI'
dataset_roots:
  ATARI: '../aiml_atari_data'
gamelist: ['Pong-v0']
seed: 1
model: 'tcspace'
parallel: True
device_ids: [0, 1, 2, 3]
train:
  batch_size: 16
  max_steps: 5000
  clip_norm: 1.0
  solver:
    fg: {optim: 'RMSprop', lr: 3e-5}
    bg: {optim: 'Adam', lr: 1e-3}
arch:
  G: 16
  K: 3
  z_pres_start_step: 1000
  z_pres_end_step: 5000
  z_pres_start_value: 0.1
  z_pres_end_value: 0.0000000001
  motion_underestimating: 1.5
  area_object_weight: 10.0
  motion_kind: 'mode'
'''
TRAIN = 'objects train --recipe space_nano steps=6 data.train.params.epoch_size=3 bs=2 --cpu --dirty record'.split()


def call(*words): return main([str(w) for w in words])


def fails(capsys, *words):
    "Exit code and the one line on stderr."
    capsys.readouterr(); code = call(*words); err = capsys.readouterr().err
    assert code in (1, 2) and err.startswith('vislearn: ') and err.strip().count('\n') == 0 and 'Traceback' not in err, err
    return err


def printed(capsys, *words):
    "What a command that works prints."
    capsys.readouterr(); assert call(*words) == 0; return capsys.readouterr().out


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with recorded sprites and a tiny run on them."
    top = tmp_path_factory.mktemp('objects')
    for folder, n in (('train', 10), ('test', 12)): assert call('objects', 'record', '--source', 'sprites:nano', '-f', folder, '-n', n, '--out', top/'sprites', '--cache', top/'cache') == 0
    assert call(*TRAIN, '--clips', top/'sprites', '--out', top/'runs') == 0
    run = Run(next((top/'runs'/'objects.space').iterdir())); return top, run


def asked(*words):
    p = Parser(); train_args(p); return asked_config(p.parse_args([str(w) for w in words]))


def test_recorded_sets_are_linked_and_found_again(made, capsys, tmp_path):
    top, _ = made; train, test = (ObjectClips.open(top/'sprites'/f) for f in ('train', 'test'))
    assert (len(train), len(test), train.info['seed'], test.info['seed']) == (10, 12, 0, 2) and train.labelled and train.marks.n > 5
    facts = json.loads(printed(capsys, 'objects', 'record', '--source', 'sprites:nano', '-fs', 10, '--cache', top/'cache', '--json'))
    assert Path(facts['path']) == (top/'sprites'/'train').resolve() and facts['clips'] == 10 and facts['motion'] == 'root' and 'recall' in facts['report']['root']   # nothing was recorded twice
    trail = json.loads(printed(capsys, 'objects', 'record', '--source', 'sprites:nano', '-n', 4, '--trail', '--T', 3, '--trail_length', 8, '--plot_bb', '-r', '--cache', tmp_path, '--json'))
    assert (trail['motion'], trail['T']) == ('trail', 3) and trail['path'] != facts['path']
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'train').mkdir(); assert 'there is a folder of this name' in fails(capsys, 'objects', 'record', '--source', 'sprites:nano', '-n', 4, '--cache', tmp_path, '--out', tmp_path/'mine')


def test_root_images_first_then_clips_with_one_of_them(tmp_path, capsys):
    out = printed(capsys, 'objects', 'record', '--source', 'sprites:nano', '--rootmedian', '-n', 200, '--out', tmp_path/'vis').split()
    assert [Path(p).name for p in out] == ['mode.png', 'median.png']; mode = np.asarray(Image.open(tmp_path/'vis'/'mode.png'))
    from vislearn.synth.sprites import SpriteWorld
    assert np.array_equal(mode, SpriteWorld.preset('nano').background)
    assert call('objects', 'record', '--source', 'sprites:nano', '-n', 3, '--root', tmp_path/'vis'/'mode.png', '--cache', tmp_path, '--out', tmp_path/'set') == 0
    clips = ObjectClips.open(tmp_path/'set'/'train'); assert np.array_equal(clips.background, mode) and clips.info['motion'] == 'root'


def test_a_folder_of_pictures_and_an_old_data_set(tmp_path, capsys):
    rng = np.random.default_rng(0); wall = rng.integers(0, 90, (40, 40, 3), np.uint8); (tmp_path/'film').mkdir()
    for t in range(30): frame = wall.copy(); frame[10:18, t:t + 8] = (250, 40, 40); Image.fromarray(frame).save(tmp_path/'film'/f'{t:03d}.png')
    facts = json.loads(printed(capsys, 'objects', 'record', '--source', tmp_path/'film', '--trail_length', 2, '--size', 32, '--cache', tmp_path/'c', '--json'))
    assert facts['clips'] == 5 and facts['size'] == 32 and facts['classes'] == [] and facts['moving_boxes'] > 10
    old = tmp_path/'old'/'Pong-v0'/'space_like'/'train'; old.mkdir(parents=True)
    for i, t in itertools.product(range(2), range(4)): Image.fromarray(np.full((32, 32, 3), 40*t, np.uint8)).save(old/f'{i:05d}_{t}.png')
    kind = tmp_path/'old'/'Pong-v0'/'mode'/'train'; kind.mkdir(parents=True)
    for i, t in itertools.product(range(2), range(4)):
        for name, x in (('32', torch.zeros(32, 32)), ('z_pres', torch.zeros(16, 1)), ('z_where', torch.zeros(16, 4))): torch.save(x, kind/f'{i:05d}_{t}_{name}.pt')
    facts = json.loads(printed(capsys, 'objects', 'record', '--from_folder', tmp_path/'old', '-g', 'Pong', '--cache', tmp_path/'c', '--json')); assert (facts['clips'], facts['T'], facts['source']) == (2, 4, 'folder:moc')


@pytest.mark.parametrize('words, said', [
    ('record', 'record what'), ('record -g Pong --source sprites', 'record what'), ('record --source sprites:nano --trail --root', 'say different things'), ('record --source sprites:nano --color_hist --no_color_hist', 'give one of them'),
    ('record --source sprite', "did you mean 'sprites'"), ('record --source sprites:nano -n 0', '--folder_size'), ('record --source /no/such/film.mp4', '/no/such/film.mp4'), ('record --from_folder /no/such/root -g Pong', '/no/such/root'),
    ('train', 'train what'), ('train --recipe space_nona', "space_nano"), ('train --config /no/such.yaml', '/no/such.yaml'), ('train --recipe space_nano stepps=3', 'stepps'), ('train --recipe svg_nano', 'video'), ('train --recipe space_nano --clips /no/clips --cpu --dirty record', '/no/clips'),
    ('eval --model no_such_run', 'no run'), ('eval --model no_such_run --thresh 2', '--thresh'), ('describe --model x --input y --out z.txt', '--out'), ('classify', 'classify what'), ('classify /no/such/folder', '/no/such/folder'), ('show --model x --out scene.doc', '--out')])
def test_mistakes_are_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); assert said in fails(capsys, 'objects', *words.split()) and not (tmp_path/'runs').exists()


def test_an_unknown_game_suggests_one_or_names_the_extra(capsys):
    err = fails(capsys, 'objects', 'record', '-g', 'Pnog'); assert "Pong" in err or 'vislearn[atari]' in err


def test_an_old_config_with_pairs(tmp_path, capsys):
    file = tmp_path/'atari_pong.yaml'; file.write_text(OLD)
    cfg, notes = asked('--config', file, 'arch.area_object_weight', '0.0', 'seed', 7, 'train.max_steps', 300)
    assert (cfg.task, cfg.label, cfg.seed, cfg.train.max_steps, cfg.train.batch_size, cfg.launch.per_node) == ('objects.space', 'atari_pong', 7, 300, 16, 1)   # one batch of 16, not four of 4
    assert (moc_config(cfg).area_object_weight, moc_config(cfg).motion_underestimating, moc_config(cfg).weight_images) == (0, 1.5, 64) and space_config(cfg).pres_prior == (1000, 5000, .1, 1e-10)
    assert (cfg.optim['fg'].name, cfg.optim['fg'].lr, cfg.optim['bg'].lr) == ('rmsprop', 3e-5, 1e-3) and (cfg.data.train.name, cfg.data.common['game'], cfg.data.common['size']) == ('atari', 'Pong', 128)
    assert any('is not here, so clips of Pong are recorded' in n for n in notes) and any("motion_kind" in n for n in notes)
    there, _ = asked('--config', file, 'dataset_roots.ATARI', tmp_path); assert (there.data.train.name, there.data.root, there.data.common) == ('folders', str(tmp_path), dict(game='Pong'))
    given, _ = asked('--config', file, '--clips', tmp_path/'set', '--arch-type', 'baseline', '--out', tmp_path/'o'); assert (given.data.train.name, given.data.root, given.out) == ('clips', str(tmp_path/'set'), str(tmp_path/'o')) and moc_config(given).motion_weight == moc_config(given).area_object_weight == 0
    (tmp_path/'half'/'train').mkdir(parents=True); assert 'there is train, but no test' in fails(capsys, 'objects', 'train', '--recipe', 'space_nano', '--clips', tmp_path/'half')
    many = tmp_path/'none.yaml'; many.write_text(OLD.replace("gamelist: ['Pong-v0']\n", '')); assert 'give --clips' in fails(capsys, 'objects', 'train', '--config', many, '--dry_run')
    assert 'no partner' in fails(capsys, 'objects', 'train', '--config', file, 'seed') and change_old(dict(a=dict(b=1)), ['a.c', '1e-3']) == dict(a=dict(b=1, c=1e-3))
    text = printed(capsys, 'objects', 'train', '--config', file, 'seed', 7, '--dry_run'); assert RunConfig(**parse_yaml(text, 'x')).seed == 7 and not (tmp_path/'runs').exists()
    own = tmp_path/'own.yaml'; own.write_text(text); assert asked('--config', own, 'seed', '9', 'train.batch_size=8')[0].seed == 9 and load_config(own).train.batch_size == 16


def test_the_three_variants_of_moc(capsys):
    for name, weights in (('baseline', (0, 0)), ('+m', (100, 0)), ('+moc', (100, 10))):
        moc = moc_config(asked('--recipe', 'space_moc_sprites', '--arch-type', name)[0]); assert (moc.motion_weight, moc.area_object_weight) == weights


def test_the_seeds_example_gives_its_ten_names(tmp_path):
    "The shipped powerset of SPACE-Time, on a recipe and on an old config, names and values."
    (tmp_path/'pong.yaml').write_text(OLD); names = [f'pong_seed{s}_aow{a}' for s in range(5) for a in ('0.0', '10.0')]
    shipped = [{'seed': ('seed', range(5), 'identity'), 'aow': ('arch.area_object_weight', [0.0, 10.0], 'identity')}]
    assert [space_name('pong', {k: (key, v, how) for (k, (key, _, how)), v in zip(shipped[0].items(), values)}) for values in itertools.product(*(v[1] for v in shipped[0].values()))] == names
    (tmp_path/'sweep.yaml').write_text('name: pong\nbase: space_moc_pong\nsets:\n- seed: [seed, {range: [0, 5]}]\n  aow: [loss.params.area_object_weight, [0.0, 10.0], identity]\n')
    combos = expand(load_sweep(tmp_path/'sweep.yaml')); assert [c.label for c in combos] == names and names[0] == 'pong_seed0_aow0.0'
    assert [(c.config.seed, moc_config(c.config).area_object_weight) for c in combos] == [(s, a) for s in range(5) for a in (0., 10.)] and all(moc_config(c.config).motion_weight == 100 for c in combos)


def test_train_writes_a_run_with_its_flags(made):
    top, run = made
    assert run.status['state'] == 'finished' and run.config.data.root == str(top/'sprites') and run.config.data.train.params['epoch_size'] == 3 and run.manifest['flags']['recipe'] == 'space_nano'
    assert run.config.train.batch_size == 2 and (run.artifact('objects')/'metrics.csv').exists()


def test_eval_gives_the_numbers_of_the_library(made, capsys, tmp_path):
    top, run = made; words = ('objects', 'eval', '--model', run.dir, '--thresh', .1, '--cpu')
    got = json.loads(printed(capsys, *words, '--out', tmp_path/'eval', '--json')); model = run.load_model().cpu(); want = evaluate_space(model.encode, ObjectClips.open(top/'sprites'/'test'), thresh=.1).flat(int(model.step))
    assert list(got)[:len(COLUMNS)] == list(COLUMNS) and all(got[k] == pytest.approx(v) if v == v else got[k] is None for k, v in want.items())
    assert len(read_csv(tmp_path/'eval'/'metrics.csv')) == 1 and sorted(p.name for p in (tmp_path/'eval').glob('z_what-classifier_*.pkl')) == [f'z_what-classifier_{n}.joblib.pkl' for n in (1, 16, 4, 64)] and list((tmp_path/'eval'/'classifiers').glob('*.pkl'))
    text = printed(capsys, *words, '-f', 'train', '--most', 3, '--clips', top/'sprites', '--out', tmp_path/'e2'); assert '12 frames' in text and 'relevant' in text


def test_describe_pictures_clips_and_films(made, capsys, tmp_path):
    top, run = made; clips = ObjectClips.open(top/'sprites'/'test'); Image.fromarray(clips.frames[0:1][0, 0]).resize((160, 64)).save(tmp_path/'frame.png')
    call('objects', 'eval', '--model', run.dir, '--thresh', .1, '--cpu', '--out', tmp_path/'eval'); probe = tmp_path/'eval'/'z_what-classifier_16.joblib.pkl'
    words = ('objects', 'describe', '--model', run.dir, '--thresh', .05, '--cpu', '--classifier', probe)
    rows = json.loads(printed(capsys, *words, '--input', (top/'sprites'/'test').resolve(), '--most', 6, '--out', tmp_path/'rows.csv', '--json')); codes = run.load_model().cpu().encode(torch.from_numpy(clips.frames[0:2].reshape(-1, 32, 32, 3)[:6]).permute(0, 3, 1, 2))
    assert len(rows) == int((codes.z_pres_prob > .05).sum()) > 0 and {r['label'] for r in rows} <= set(FewShotProbe.load(probe).names) and len((tmp_path/'rows.csv').read_text().splitlines()) == len(rows) + 1
    one = json.loads(printed(capsys, *words, '--input', tmp_path/'frame.png', '--z_where')); pixels = json.loads(printed(capsys, *words, '--input', tmp_path/'frame.png', '--json'))
    assert len(one) == 1 and sum(map(len, one[0].values())) == len(pixels) > 0 and all(0 <= p['x'] <= 160 for p in pixels)
    label, thing = next((k, v[0]) for k, v in one[0].items()); match = min(pixels, key=lambda p: abs((thing[2] + 1)*80 - p['x']) + abs((thing[3] + 1)*32 - p['y'])); assert match['label'] == label and abs(thing[0]*160 - match['w']) < .02
    (tmp_path/'film').mkdir(); [Image.fromarray(f).save(tmp_path/'film'/f'{t}.png') for t, f in enumerate(clips.frames[0:1][0])]
    assert len(json.loads(printed(capsys, *words, '--input', tmp_path/'film', '--z_where'))) == 4                 # a film is described once, not round and round
    tracked = json.loads(printed(capsys, *words, '--input', tmp_path/'film', '--track', '--json')); ids = [r['track'] for r in tracked]; assert len(set(ids)) < len(ids) and min(ids) >= 0   # the same things in several frames
    empty = printed(capsys, 'objects', 'describe', '--model', run.dir, '--input', tmp_path/'frame.png', '--thresh', .9999999, '--cpu'); assert '0 objects in 1 frame\n' in empty


def test_extract_and_classify(made, capsys, tmp_path):
    _, run = made; out = printed(capsys, 'objects', 'extract-bb', '--model', run.dir, '--exp', 'tiny', '--out', tmp_path, '--thresh', .05, '--cpu').strip(); assert Path(out) == tmp_path/'labeled'/'tiny'
    facts = json.loads(printed(capsys, 'objects', 'classify', out, '--json')); assert facts['codes'] == len(torch.load(Path(out)/'z_what.pt')) and Image.open(facts['figure']).width > 500 and {'1-shot', '64-shot', 'ami', 'cluster_nn'} <= set(facts)
    for extra in (('-dim', 3, '-indices', 0, 1, 2), ('-edgecolors',), ('--tsne',)): assert call('objects', 'classify', '-folder', out, *extra, '--out', tmp_path/'x.png') == 0 and Image.open(tmp_path/'x.png').width > 400
    assert (Path(out)/'z_what-classifier_4.joblib.pkl').exists() and 'expected 3 components' in fails(capsys, 'objects', 'classify', out, '-dim', 3, '-indices', 0, 1)
    (Path(out)/'labels.pt').unlink(); assert 'labels.pt' in fails(capsys, 'objects', 'classify', out)


def test_show(made, capsys, tmp_path):
    _, run = made
    for what in ('scene', 'moment', 'motion'): assert call('objects', 'show', '--model', run.dir, '--what', what, '--index', 2, '--frame', 1, '--out', tmp_path/f'{what}.png', '--cpu') == 0 and Image.open(tmp_path/f'{what}.png').width > 700
    assert '--index 12' in fails(capsys, 'objects', 'show', '--model', run.dir, '--index', 12, '--out', tmp_path/'x.png', '--cpu') and '--frame 4' in fails(capsys, 'objects', 'show', '--model', run.dir, '--frame', 4, '--out', tmp_path/'x.png', '--cpu')


def test_old_checkpoints(made, capsys, tmp_path):
    "An old checkpoint can be shown, evaluated, described, and trained on."
    top, _ = made; torch.manual_seed(0); full = Space(SpaceConfig(size=64, G=4, K=2)).eval(); save_space_checkpoint(full, tmp_path/'model_000000100.pth', bgr=True, moc=True)
    assert call('objects', 'record', '--source', 'sprites:small', '-n', 3, '--cache', top/'cache', '--out', tmp_path/'small') == 0
    words = ('--model', tmp_path/'model_000000100.pth', '--K', 2, '--cpu', '--clips', tmp_path/'small', '-f', 'train')
    assert call('objects', 'show', *words, '--out', tmp_path/'s.png') == 0 and call('objects', 'eval', *words, '--most', 2, '--out', tmp_path/'e', '--thresh', .9) == 0
    assert '--clips' in fails(capsys, 'objects', 'show', *words[:5], '--out', tmp_path/'s.png') and '--out' in fails(capsys, 'objects', 'eval', *words)
    assert '32x32' in fails(capsys, 'objects', 'show', '--model', tmp_path/'model_000000100.pth', '--cpu', '--clips', top/'sprites', '--out', tmp_path/'s.png')
    base = ['objects', 'train', '--recipe', 'space_nano', 'steps=1', 'bs=1', 'model.name=space', 'model.params={size: 64, G: 4, K: 2}', 'optim.fg.lr=1e-12', 'optim.bg.lr=1e-12', '--clips', tmp_path/'small', '--resume_ckpt', tmp_path/'model_000000100.pth', '--cpu', '--dirty', 'record', '--out', tmp_path/'runs']
    (tmp_path/'small'/'test').symlink_to((tmp_path/'small'/'train').resolve()); assert call(*base) == 0
    new = Run(next((tmp_path/'runs'/'objects.space').iterdir())); state = new.load('last')['model']; assert new.config.init_from.file.endswith('.pt')
    for k, v in full.state_dict().items():
        if 'running' not in k and 'num_batches' not in k and k != 'step': assert torch.allclose(state[k], v, atol=1e-5), k


def test_what_does_not_fit_is_said_before_anything_is_made(made, capsys, tmp_path):
    top, run = made; save_space_checkpoint(Space(SpaceConfig(size=64, G=4, K=2)), tmp_path/'old.pth'); out = ('--cpu', '--dirty', 'record', '--out', tmp_path/'runs'); base = ('objects', 'train', '--recipe', 'space_nano', '--clips', top/'sprites', *out)
    assert 'the network knows 64x64 pixels' in fails(capsys, 'objects', 'train', '--recipe', 'space_moc_sprites', '--clips', top/'sprites', *out) and 'G:' in fails(capsys, *base, 'model.params.G=3') and 'size:' in fails(capsys, *base, 'model.params.size=48')
    assert 'grid' in fails(capsys, 'objects', 'train', '--recipe', 'space_nano', 'model.name=space', 'model.params={size: 64, G: 8, K: 2}', '--clips', top/'sprites', '--resume_ckpt', tmp_path/'old.pth', *out)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path/'p.png'); (tmp_path/'film').mkdir(); [Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path/'film'/f'{t}.png') for t in range(20)]
    assert call('objects', 'record', '--source', tmp_path/'film', '--trail_length', 4, '--size', 32, '--cache', tmp_path/'c', '--out', tmp_path/'still') == 0   # nothing moves, nothing is labelled
    assert 'no motion hints' in fails(capsys, 'objects', 'train', '--recipe', 'space_nano', '--clips', tmp_path/'still'/'train', *out) and 'no true boxes' in fails(capsys, 'objects', 'eval', '--model', run.dir, '--clips', tmp_path/'still', '-f', 'train', '--cpu', '--out', tmp_path/'e')
    (tmp_path/'broken.mp4').write_bytes(b'no film'); (tmp_path/'broken.png').write_bytes(b'no picture'); describe = ('objects', 'describe', '--model', run.dir, '--cpu', '--input')
    assert 'broken.mp4' in fails(capsys, *describe, tmp_path/'broken.mp4') and 'broken.png' in fails(capsys, *describe, tmp_path/'broken.png') and not (tmp_path/'runs').exists()


def test_eval_of_what_does_not_fit(made, capsys, tmp_path):
    "An unknown game, a class nobody knows, clips of another size: said in one line, nothing written."
    top, run = made; base = ('objects', 'eval', '--model', run.dir, '--cpu', '--out', tmp_path/'e')
    if find_spec('ale_py'): assert "'Pnog' (did you mean 'Pong'?)" in fails(capsys, *base, '-g', 'Pnog')
    assert "no class 'disk' (did you mean 'disc'?)" in fails(capsys, *base, '--leave-out', 'disk')
    assert call('objects', 'record', '--source', 'sprites:small', '-n', 3, '--cache', top/'cache', '--out', tmp_path/'small', '-f', 'test') == 0
    for words in (base, ('objects', 'extract-bb', '--model', run.dir, '--cpu', '--out', tmp_path/'e')): assert 'clips of 64x64 pixels, this model knows 32x32: record them with --size 32' in fails(capsys, *words, '--clips', tmp_path/'small')
    assert not (tmp_path/'e').exists() and call(*base, '--leave_out', 'disc') == 0 and 'disc' not in capsys.readouterr().out
    assert "no key stepss (did you mean 'steps'?)" in fails(capsys, 'objects', 'train', '--recipe', 'space_moc_sprites', 'stepss=4', '--cpu')
    assert '--folder_size: expected at least 1' in fails(capsys, 'objects', 'record', '--source', 'sprites:nano', '-n', 0)
    with pytest.raises(SystemExit) as e: call('objects', 'record', '-g', 'Pong', '-f', 'trian')
    assert e.value.code == 2 and (said := capsys.readouterr().err).count('\n') == 1 and "invalid choice: 'trian'" in said and '--help' in said


def test_help_has_examples(capsys):
    for word in 'record train eval describe extract-bb classify show'.split():
        with pytest.raises(SystemExit) as e: call('objects', word, '--help')
        assert e.value.code == 0 and f'example:\n  vislearn objects {word} ' in capsys.readouterr().out
    with pytest.raises(SystemExit): call('demo', 'objects', '--help')
    assert 'vislearn demo objects' in capsys.readouterr().out


def test_an_old_config_trains_on_its_old_folder(tmp_path, monkeypatch):
    "main.py --config FILE KEY VALUE, with the data set that create_dataset.py has written."
    monkeypatch.setenv('VISLEARN_CACHE', str(tmp_path/'cache')); rng = np.random.default_rng(0)
    for split, n in (('train', 3), ('validation', 2)):
        frames, hints = tmp_path/'data'/'Pong-v0'/'space_like'/split, tmp_path/'data'/'Pong-v0'/'mode'/split; frames.mkdir(parents=True); hints.mkdir(parents=True)
        for i, t in itertools.product(range(n), range(4)):
            x, y = rng.integers(4, 50, 2); picture = np.full((64, 64, 3), 60, np.uint8); picture[y:y + 8, x:x + 8] = (20, 90, 240); Image.fromarray(picture).save(frames/f'{i:05d}_{t}.png')   # BGR: an orange square
            moving, pres, where = torch.zeros(64, 64), torch.zeros(16, 1), torch.zeros(16, 4); moving[y:y + 8, x:x + 8] = 1; cell = (y + 4)//16*4 + (x + 4)//16; pres[cell] = 1; where[cell] = torch.tensor([.125, .125, 2*(x + 4)/64 - 1, 2*(y + 4)/64 - 1])
            for name, v in (('64', moving), ('z_pres', pres), ('z_where', where)): torch.save(v, hints/f'{i:05d}_{t}_{name}.pt')
    (tmp_path/'pong.yaml').write_text(OLD.replace('../aiml_atari_data', str(tmp_path/'data')).replace('  G: 16\n', '  G: 4\n  img_shape: [64, 64]\n'))
    words = ('objects', 'train', '--config', tmp_path/'pong.yaml', 'train.max_steps', 2, 'train.batch_size', 1, 'device_ids', '[0]', '--cpu', '--dirty', 'record', '--out', tmp_path/'runs')
    assert call(*words) == 0; run = Run(next((tmp_path/'runs'/'objects.space').iterdir()))
    assert run.config.data.train.name == 'folders' and run.config.label == 'atari_pong' and space_config(run.config).size == 64
    from vislearn.objects.data import open_clips
    clips = open_clips(run.config, 'test'); assert len(clips) == 2 and tuple(clips.frames[0:1][0, 0].reshape(-1, 3).max(0)) == (240, 90, 60) and clips.marks.n == 8   # RGB here
