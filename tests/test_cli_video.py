"vislearn video as a user types it: the original's flags, what is written, what is refused"
import csv, json
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from vislearn.cli.main import main
from vislearn.cli.video import FLAGS, asked_config
from vislearn.clips import Clips
from vislearn.runs.record import Run, all_runs
from vislearn.synth.smmnist import MovingDigits
from vislearn.video.evaluate import load_result
from vislearn.video.legacy import read_legacy
from vislearn.video.metrics import psnr, ssim
from vislearn.video.recipes import svg_config, svg_lp_smmnist, svg_training, video_data

SMALL = '--recipe svg_nano --niter 1 --epoch_size 2 --batch_size 2 --nf 4 --g-dim 8 --z_dim 2 --rnn_size 8 --n-future 3 --cpu --dirty record'.split()


def call(*words): return main([str(w) for w in words])


def fails(capsys, *words):
    "Exit code and the one line on stderr."
    capsys.readouterr(); code = call(*words); err = capsys.readouterr().err
    assert code and err.startswith('vislearn: ') and err.strip().count('\n') == 0 and 'Traceback' not in err, err
    return code, err


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Two tiny runs, and the folder they are in."
    top = tmp_path_factory.mktemp('video')
    assert call('video', 'train', *SMALL, '--log_dir', top/'logs', '--name', 'tiny', '--legacy-files') == 0
    assert call('video', 'train', *'--recipe svg_nano --niter 1 --epoch_size 2 --batch_size 2 --nf 4 --g_dim 8 --rnn_size 8 --n_future 3 --prior none --cpu --dirty record'.split(), '--log_dir', top/'det') == 0
    return top, Run(all_runs(top/'logs')[0]), Run(all_runs(top/'det')[0])


def test_defaults_are_those_of_the_original():
    cfg = asked_config({}); assert cfg.replace(out='runs', description='x') == svg_lp_smmnist().replace(description='x', data=cfg.data)
    model, batches = svg_config(cfg), video_data(cfg)
    ours = dict(lr=cfg.optim.lr, batch_size=cfg.train.batch_size, niter=cfg.train.epochs, seed=cfg.seed, epoch_size=batches.epoch_size, beta=svg_training(cfg).beta, optimizer=cfg.optim.name, model=model.arch, dataset=cfg.data.train.name) | {k: getattr(model, k) for k in FLAGS if hasattr(model, k) and k!='model'}
    assert len(ours) > 18 and ours == {k: FLAGS[k][1] for k in ours} and cfg.out == 'logs/lp'


def test_published_command_lines():
    "BAIR, KTH with a fixed prior, fabrics with actions: the commands of the papers, in both spellings."
    bair = svg_config(asked_config(dict(dataset='bair', model='vgg', g_dim=128, z_dim=64, beta=1e-4, n_past=2, n_future=10, channels=3)))
    assert (bair.arch, bair.z_dim, bair.n_past, bair.channels, bair.prior) == ('vgg', 64, 2, 3, 'learned')
    assert asked_config(dict(dataset='kth', image_width=128, model='vgg')).data.common == dict(size=128)
    kth = asked_config(dict(dataset='kth', image_width=64, model='vgg', z_dim=24, beta=1e-6, n_past=10, n_future=10, channels=1, lr=8e-4, prior='fixed'))
    assert kth.optim.lr == 8e-4 and svg_training(kth).beta == 1e-6 and kth.out == 'logs/fp' and kth.data.root == 'data'
    fabric = dict(dataset='fabric-random', z_dim=10, beta=1e-4, n_past=3, n_future=7, n_eval=10, channels=4, image_width=56, epoch_size=200, niter=1500, action_cond=True)
    assert svg_config(asked_config(fabric)).actions == 'raw' and svg_config(asked_config(fabric | dict(act_design=2))).actions == 'learned'
    assert svg_config(asked_config(dict(last_frame_skip=True))).skip == 'last' and asked_config(dict(beta1=.5)).optim.params['betas'] == [.5, .999]


def test_train_writes_a_run_with_its_flags(trained):
    top, run, det = trained
    flags = run.manifest['flags']; assert flags['recipe'] == 'svg_nano' and flags['niter'] == 1 and flags['g_dim'] == 8 and flags['n_future'] == 3
    assert run.status['state'] == 'finished' and run.config.label == 'tiny' and run.config.out == str(top/'logs') and det.config.model.params['z_dim'] == 0
    old = next((top/'logs'/'smmnist-1').iterdir())
    assert old.name.startswith('model=dcgan64x64-rnn_size=8-predictor-posterior-prior-rnn_layers=1-1-1-n_past=3-n_future=3') and {'model.pth', 'losses.pkl', 'gen', 'plots'} <= {p.name for p in old.iterdir()}
    assert read_legacy(old).opt['z_dim'] == 2


def test_n_eval_is_the_length_of_films_in_tests(tmp_path, capsys):
    assert asked_config({}).data.eval.params['n_eval'] == 30 and asked_config(dict(dataset='fabric-random', n_past=3, n_future=7, channels=4, image_width=56)).data.eval.params['n_eval'] == 10 and asked_config(dict(recipe='svg_nano')).data.eval is None
    assert call('video', 'train', *SMALL, '--n_eval', 8, '--log_dir', tmp_path) == 0; run = Run(all_runs(tmp_path)[0])
    assert call('video', 'evaluate', '--model', run.dir, '--N', 2, '--nsample', 2, '--cpu') == 0 and load_result(run.artifact('evaluation.json')).protocol.n_pred == 5
    capsys.readouterr(); assert call('video', 'generate', '--model', run.dir, '--N', 1, '--nsample', 2, '--cpu', '--json', '--no_gifs') == 0 and json.loads(capsys.readouterr().out)['n_future'] == 5


def test_a_run_goes_on_and_an_old_checkpoint_is_a_start(trained, tmp_path, capsys):
    top, run, _ = trained
    assert call('video', 'train', '--model_dir', run.dir, '--cpu') == 0 and capsys.readouterr().out.strip().splitlines()[-1] == str(run.dir)
    assert 'cannot be given' in fails(capsys, 'video', 'train', '--model_dir', run.dir, '--lr', '0.1')[1]
    old = next((top/'logs'/'smmnist-1').iterdir())
    words = ['video', 'train', '--model_dir', old, '--niter', 1, '--epoch_size', 1, '--batch_size', 2, '--num_digits', 1, '--cpu', '--dirty', 'record', '--log_dir', tmp_path/'more', '--lr', 1e-9]
    assert call(*words, '--dry_run') == 0 and not (tmp_path/'more').exists()
    assert call(*words) == 0; new = Run(all_runs(tmp_path/'more')[0])
    assert new.config.init_from.file.endswith('.pt') and svg_config(new.config).g_dim == 8
    a, b = run.load('last')['model'], new.load('last')['model']
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a if 'running' not in k and 'num_batches' not in k) and a.keys() == b.keys()


def test_generate_keeps_the_scores_of_every_sample(trained, tmp_path, capsys):
    _, run, _ = trained; out = tmp_path/'gen'
    assert call('video', 'generate', '--model', run.dir, '--N', 3, '--nsample', 4, '--n_future', 5, '--batch_size', 2, '--log_dir', out, '--cpu', '--json') == 0
    summary = json.loads(capsys.readouterr().out); assert summary['n_past'] == 3 and set(summary['scores']) == {'train', 'test'}
    assert {p.name for p in out.iterdir()} == {f'{s}_{i}.gif' for s in ('train', 'test') for i in range(3)} | {'scores.csv', 'scores.npz', 'summary.json'} and not list(tmp_path.glob('.*'))
    gif = Image.open(out/'test_2.gif'); assert gif.n_frames == 8
    arrays = np.load(out/'scores.npz'); assert {k: v.shape for k, v in arrays.items()} == {f'{s}_{m}': (3, 4, 5) for s in ('train', 'test') for m in ('ssim', 'psnr')}
    rows = list(csv.DictReader((out/'scores.csv').open())); assert len(rows) == 2*3*5
    best = arrays['test_ssim'][1].mean(-1).argmax(); row = next(r for r in rows if r['films'] == 'test' and r['number'] == '1' and r['frame'] == '4')
    assert abs(float(row['ssim_best']) - arrays['test_ssim'][1, best, 1]) < 1e-4 and abs(float(row['psnr_mean']) - arrays['test_psnr'][1, :, 1].mean()) < 1e-4
    assert abs(summary['scores']['test']['psnr']['best'] - arrays['test_psnr'].mean(-1).max(1).mean()) < 1e-4
    from vislearn.video.generate import generate # the stored numbers are those of the library, whatever the size of the portions
    films = MovingDigits('test', 8, 1, digits='sklearn').batch(range(3)); pred = generate(run.load_model(), films, 5, n_samples=4, seed=1, n_past=3).frames
    truth = (films[:, 3:].float()/255).expand_as(pred)
    assert np.allclose(arrays['test_psnr'], psnr(pred, truth).transpose(0, 1), atol=1e-3) and np.allclose(arrays['test_ssim'], ssim(pred, truth).transpose(0, 1), atol=1e-4)
    assert call('video', 'generate', '--model', run.dir, '--N', 1, '--nsample', 1, '--n_future', 2, '--log_dir', out, '--cpu', '--no-gifs') == 0 and not list(out.glob('*.gif'))   # its own folder is replaced as a whole


def test_generate_leaves_other_peoples_folders_alone(trained, tmp_path, capsys):
    _, run, _ = trained; (tmp_path/'thesis').mkdir(); (tmp_path/'thesis'/'chapter.txt').write_text('precious')
    assert 'other files' in fails(capsys, 'video', 'generate', '--model', run.dir, '--N', 1, '--nsample', 1, '--log_dir', tmp_path/'thesis', '--cpu')[1]
    assert (tmp_path/'thesis'/'chapter.txt').read_text() == 'precious' and len(list(tmp_path.iterdir())) == 1


def test_evaluate_with_baselines(trained, tmp_path, capsys):
    _, run, det = trained
    words = ['video', 'evaluate', '--model', run.dir, '--deterministic', det.dir, '--N', 4, '--nsample', 3, '--cpu']
    assert call(*words) == 0 and run.artifact('evaluation.json').exists() and run.artifact('evaluation.png').stat().st_size > 5000
    res = load_result(run.artifact('evaluation.json')); assert list(res.scores) == ['tiny', 'deterministic', 'copy-last'] and res.n == 4 and (res.protocol.n_past, res.protocol.n_pred) == (3, 3)
    assert 'copy-last' in capsys.readouterr().out
    assert call(*words, '--protocol', 'smmnist_paper', '--n_past', 3, '--n_future', 4, '--out', tmp_path/'x.json', '--json') == 0
    got = json.loads(capsys.readouterr().out); assert got['protocol']['n_pred'] == 4 and got['protocol']['psnr'] == 'per-channel' and got['n'] == 4
    assert abs(got['scores']['tiny']['mse']['best'][0] - load_result(tmp_path/'x.json').scores['tiny']['mse']['best'][0]) < 1e-6


def test_evaluate_refuses(trained, tmp_path, capsys):
    _, run, det = trained
    assert 'learned prior' in fails(capsys, 'video', 'evaluate', '--model', det.dir, '--deterministic', run.dir, '--N', 1, '--cpu')[1]
    assert "did you mean 'kth'" in fails(capsys, 'video', 'evaluate', '--model', run.dir, '--protocol', 'kht', '--cpu')[1]
    assert fails(capsys, 'video', 'evaluate', '--model', run.dir, '--nsample', 0, '--cpu')[0] == 2
    assert '.json' in fails(capsys, 'video', 'evaluate', '--model', run.dir, '--out', tmp_path/'x.txt', '--cpu')[1]
    assert 'no run' in fails(capsys, 'video', 'evaluate', '--model', 'nothing')[1]


def test_predict(trained, tmp_path, capsys):
    _, run, _ = trained; films = MovingDigits('test', 8, 1, digits='sklearn').batch([0]).permute(0, 1, 3, 4, 2).numpy()
    np.savez(tmp_path/'start.npz', images=films[0, :3], other=films[0]); Image.fromarray(films[0, 2, :, :, 0]).save(tmp_path/'one.png')
    assert call('video', 'predict', '--model', run.dir, '--input', tmp_path/'start.npz', '--out', tmp_path/'p.npz', '--n_future', 4, '--cpu') == 0
    got = np.load(tmp_path/'p.npz'); assert got['pred'].shape == (1, 1, 4, 64, 64, 1) and 0 <= got['pred'].min() and 1 < got['pred'].max() <= 255
    assert call('video', 'predict', '--model', run.dir, '--input', tmp_path/'one.png', '--out', tmp_path/'p.npz', '--cpu') == 0 and np.load(tmp_path/'p.npz')['pred'].shape == (1, 1, 5, 64, 64, 1)
    old = next((Path(run.config.out)/'smmnist-1').iterdir()) # the exported checkpoint is the same model
    words = ['--input', tmp_path/'start.npz', '--n_future', 4, '--cpu']; assert call('video', 'predict', '--model', old, *words, '--out', tmp_path/'o.npz') == 0 and call('video', 'predict', '--model', run.dir, *words, '--out', tmp_path/'p.npz') == 0
    assert np.allclose(np.load(tmp_path/'o.npz')['pred'], np.load(tmp_path/'p.npz')['pred'], atol=1e-3)
    bad = lambda *words: fails(capsys, 'video', 'predict', '--model', run.dir, '--cpu', *words)[1]
    Image.fromarray(films[0, 2, :56, :56, 0]).save(tmp_path/'small.png'); (tmp_path/'text.png').write_text('no picture'); np.savez(tmp_path/'two.npz', a=films[0], b=films[0])
    assert '64x64' in bad('--input', tmp_path/'small.png', '--out', tmp_path/'q.npz') and 'nor a picture' in bad('--input', tmp_path/'text.png', '--out', tmp_path/'q.npz')
    assert 'several arrays' in bad('--input', tmp_path/'two.npz', '--out', tmp_path/'q.npz') and '.npz' in bad('--input', tmp_path/'one.png', '--out', tmp_path/'q.txt')
    assert 'missing.png' in bad('--input', tmp_path/'missing.png', '--out', tmp_path/'q.npz') and not list(tmp_path.glob('*q.*'))


def test_predict_with_actions_has_the_shapes_of_the_fork(tmp_path, capsys):
    from vislearn.video.legacy import svg_to_legacy
    from vislearn.video.svg import SVG, SVGConfig
    torch.manual_seed(0); model = SVG(SVGConfig(image_width=56, channels=4, nf=4, g_dim=8, z_dim=2, rnn_size=8, n_past=1, n_future=5, actions='learned', act_dim=4)).eval()
    svg_to_legacy(model, tmp_path/'model_0050.pth', dict(dataset='fabric-random', data_root='nowhere'))
    np.save(tmp_path/'x.npy', np.random.default_rng(0).integers(0, 256, (56, 56, 4), np.uint8)); np.save(tmp_path/'a.npy', np.random.default_rng(1).uniform(-1, 1, (7, 5, 4)).astype(np.float32))
    words = ['video', 'predict', '--model', tmp_path/'model_0050.pth', '--input', tmp_path/'x.npy', '--out', tmp_path/'p.npz', '--cpu']
    assert call(*words, '--actions', tmp_path/'a.npy') == 0
    got = np.load(tmp_path/'p.npz'); assert got['pred'].shape == (7, 1, 5, 56, 56, 4) and got['actions'].shape == (7, 5, 4) and got['context'].shape == (56, 56, 4)
    assert '--actions' in fails(capsys, *words)[1]
    np.save(tmp_path/'a.npy', np.zeros((7, 5, 3), np.float32)); assert '4' in fails(capsys, *words, '--actions', tmp_path/'a.npy')[1]
    assert call('video', 'evaluate', '--model', tmp_path/'model_0050.pth', '--out', tmp_path/'e.json', '--cpu') != 0 and 'Traceback' not in capsys.readouterr().err


def test_plot_old_and_new_logs(trained, tmp_path, capsys):
    top, run, det = trained; old = next((top/'logs'/'smmnist-1').iterdir())
    assert call('video', 'plot', run.dir, det.dir, old, '--out', tmp_path/'c.png', '--json') == 0
    last = json.loads(capsys.readouterr().out); assert len({r['run'] for r in last}) == 3 and Image.open(tmp_path/'c.png').width > 500
    assert call('video', 'plot', top, '--out', tmp_path/'c.csv') == 0 and (tmp_path/'c.csv').read_text().startswith('run,kind,split,epoch')
    assert '.png' in fails(capsys, 'video', 'plot', run.dir, '--out', tmp_path/'c.doc')[1] and 'no metric' in fails(capsys, 'video', 'plot', run.dir, '--metrics', 'los', '--out', tmp_path/'d.png')[1]
    assert 'nowhere' in fails(capsys, 'video', 'plot', tmp_path/'nowhere', '--out', tmp_path/'d.png')[1] and not list(tmp_path.glob('*d.png*'))


@pytest.mark.parametrize('words, said', [
    ('--z_dim 0', 'z_dim'), ('--n_past 0', 'n_past'), ('--image_width 60', 'image_width'), ('--recipe svg_lp_smnist', "did you mean 'svg_lp_smmnist'"), ('--dataset smmnits', "did you mean 'smmnist'"), ('--optimizer adamax', 'adam, rmsprop or sgd'),
    ('--dataset bair --data_root /no/such/folder --channels 3', '/no/such/folder'), ('--recipe svg_nano --action_cond', 'actions'), ('--recipe svg_nano --channels 3 --dataset kth', 'leave one'), ('--model_dir no_such_run', 'no run'), ('--niter -1', 'epochs'),
    ('--prior none --z_dim 5', 'z_dim'), ('--n_past 1 --skip legacy', 'legacy'), ('--num_digits 0', 'n_digits')])
def test_bad_flags_say_so_in_one_line_and_create_nothing(words, said, tmp_path, capsys, monkeypatch):
    code, err = fails(capsys, 'video', 'train', *words.split(), '--log_dir', tmp_path/'logs', '--cpu', '--dirty', 'record')
    assert code in (1, 2) and said in err and not (tmp_path/'logs').exists()


def test_optimizers_that_crashed_the_original(tmp_path):
    for kind in ('rmsprop', 'sgd'):
        assert call('video', 'train', *SMALL, '--optimizer', kind, '--lr', 1e-4, '--log_dir', tmp_path/kind) == 0
        assert Run(all_runs(tmp_path/kind)[0]).config.optim.name == kind


def test_synth_films(tmp_path, capsys):
    for words in ('smmnist --n 3 --frames 6 --digits sklearn', 'cloth --n 2 --length 2'):
        kind = words.split()[0]
        assert call('video', 'synth', *words.split(), '--out', tmp_path/f'{kind}.npz') == 0 and call('synth', *words.split(), '--cache', tmp_path/'cache', '--json') == 0
        place = json.loads(capsys.readouterr().out.split('.npz\n')[-1])['path']; clips, arrays = Clips.open(place), np.load(tmp_path/f'{kind}.npz')
        assert np.array_equal(arrays['images'], np.stack([c.frames for c in clips])) and ('actions' in arrays) == (kind == 'cloth')
    assert not list(tmp_path.glob('.*')) and fails(capsys, 'synth', 'smmnist', '--out', tmp_path/'x.zip')[0] == 2
    assert fails(capsys, 'synth', 'smmnist', '--data-root', tmp_path/'none')[0] == 2 and fails(capsys, 'synth', 'cloth', '--limit', 2, '--n', 1, '--cache', tmp_path/'c2')[0] == 1


def test_train_on_stored_clips(tmp_path, capsys, monkeypatch):
    "What synth made can be trained on, with actions."
    monkeypatch.setenv('VISLEARN_CACHE', str(tmp_path/'all'))
    assert call('synth', 'cloth', '--n', 4, '--length', 3, '--cache', tmp_path/'cache', '--json') == 0
    place = json.loads(capsys.readouterr().out)['path']
    assert '12 frames per test film, the longest has 4' in fails(capsys, 'video', 'train', *f'--dataset clips --data_root {place} --image_width 56 --channels 4 --n_past 1 --n_future 2 --n_eval 12 --nf 4 --cpu --dirty record'.split(), '--log_dir', tmp_path/'none')[1] and not (tmp_path/'none').exists()
    words = f'--dataset clips --data_root {place} --image_width 56 --channels 4 --action_cond --act_design 2 --n_past 1 --n_future 2 --niter 1 --epoch_size 2 --batch_size 2 --nf 4 --g_dim 8 --z_dim 2 --rnn_size 8 --cpu --dirty record'.split()
    assert call('video', 'train', *words, '--log_dir', tmp_path/'logs') == 0; run = Run(all_runs(tmp_path/'logs')[0])
    assert call('video', 'evaluate', '--model', run.dir, '--N', 2, '--nsample', 2, '--cpu') == 0 and call('video', 'generate', '--model', run.dir, '--N', 1, '--nsample', 2, '--n_future', 2, '--cpu') == 0
    assert (run.dir/'artifacts'/'generate'/'test_0.gif').exists()
    assert call('synth', 'cloth', '--n', 3, '--length', 4, '--seed', 2, '--out', tmp_path/'more.npz') == 0 # other films, from a file, for the same model
    assert call('video', 'evaluate', '--model', run.dir, '--dataset', 'npz', '--data_root', tmp_path/'more.npz', '--films', 'frames=images', 'actions=actions', '--split', 'train', '--N', 9, '--nsample', 2, '--cpu', '--out', tmp_path/'e.json') == 0
    assert load_result(tmp_path/'e.json').n == 2 and 'KEY=VALUE' in fails(capsys, 'video', 'evaluate', '--model', run.dir, '--films', 'images', '--cpu')[1]
    capsys.readouterr(); assert 'frames' in fails(capsys, 'video', 'generate', '--model', run.dir, '--N', 1, '--nsample', 2, '--n_future', 28, '--log_dir', tmp_path/'g', '--cpu')[1] and not (tmp_path/'g').exists()
