"Old log folders of every kind beside runs of vislearn, with one division; pickles that would do harm"
import json, os, pickle
import numpy as np, pandas as pd, pytest
from vislearn.core import DataError, UserError
from vislearn.runs.metrics import MetricLog
from vislearn.runs.naming import svg_name
from vislearn.video import logs as vl

def printed(folder, T, mse=(.5, .25, .2), kld=(1., 2., 3.), each=6000, name='log.txt'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder/name).write_text(''.join(f'\r 50%|####    | 3/6\r[{e:02d}] mse loss: {m*(T-1)/T:.5f} | kld loss: {k*(T-1)/T:.5f} ({e*each})\n' for e, (m, k) in enumerate(zip(mse, kld))))
    return folder

def run_folder(folder, label='mine', bs=4, world=1):
    folder.mkdir(parents=True); (folder/'config.yaml').write_text(f'label: {label}\ntrain: {{batch_size: {bs}, accumulate: 2}}\n'); (folder/'manifest.json').write_text(json.dumps(dict(attempts=[dict(world=world)])))
    log = MetricLog(folder)
    for e in range(3): log.write(10*(e+1), e, 'train', dict(loss=9., mse_step=.3/(e+1))); log.write(10*(e+1), e, 'test', dict(mse_step=.4/(e+1), kld_step=float('nan') if e==1 else 1.))
    log.close(); return folder

def of(table, **where):
    for k, v in where.items(): table = table[table[k]==v]
    return table

@pytest.mark.parametrize('options,variant', [(dict(), 'lp'), (dict(), 'fp'), (dict(dataset='kth', model='vgg', image_width=128, lr=.0008, beta=1e-6, last_frame_skip=True, n_past=10, name='-second try=1', z_dim=24), 'fp'),
    (dict(dataset='fabric-01_2021', action_cond=True, act_design=2, n_past=2, n_future=5, image_width=56, name='x'), 'lp'), (dict(num_digits=3, prior_rnn_layers=2, posterior_rnn_layers=3), 'lp'), (dict(dataset='bair', action_cond=True, act_design=1, name='-act'), 'lp')])
def test_names_are_read_back(options, variant):
    text = svg_name(options, variant); got = vl.read_svg_name(text)
    assert got.pop('variant')==variant and {k: got[k] for k in options}==options and svg_name(dict(log_dir=text.split('/')[0] + '/' + text.split('/')[1]) | got, variant)==text

@pytest.mark.parametrize('bad', ['model', 'model=dcgan64x64', svg_name({})[:-1], svg_name({}).replace('dcgan', ''), svg_name({}).replace('2-1-1', '2-1')])
def test_other_names_are_refused(bad):
    with pytest.raises(DataError, match='run of SVG|stacks') as e: vl.read_svg_name(bad)
    assert '\n' not in str(e.value)

def test_original_is_divided_by_T_and_counts_samples_at_the_end(tmp_path):
    folder = printed(tmp_path/svg_name({}), 15); t = vl.read_log(folder)
    assert list(t.columns)==vl.COLUMNS and set(t.kind)=={'original'} and set(t.split)=={'train'}
    assert of(t, metric='mse_step').value.tolist()==pytest.approx([.5, .25, .2], abs=1e-5) and of(t, metric='kld_step').value.tolist()==pytest.approx([1, 2, 3], abs=1e-5)
    assert of(t, metric='mse_step').samples.tolist()==[6000, 12000, 18000]
    assert vl.read_log(folder, divided_by='T-1').value[0]==pytest.approx(.5*14/15, abs=1e-5)
    other = printed(tmp_path/svg_name(dict(n_past=2, n_future=10, dataset='bair')), 12); assert vl.read_log(other).value[0]==pytest.approx(.5, abs=1e-5)         # T is in the name
    alone = vl.read_log(printed(tmp_path/svg_name(dict(dataset='kth')), 15, mse=[.5], kld=[1.])); assert np.isnan(alone.samples).all()                          # the first epoch does not say how long it is

def test_fork_is_divided_by_T_minus_1_already(tmp_path):
    folder = tmp_path/svg_name(dict(dataset='fabric-random', n_past=3, n_future=7, action_cond=True)); folder.mkdir(parents=True)
    losses = dict(epoch=[0, 1], mse_loss=[np.float64(.3), .2], kld_loss=[1, 2], tot_train=[0, 20000], valid_mse_loss_rec=[.5, .4], mse_loss_C=[.2, .15], mse_loss_D=[.1, .05])
    (folder/'losses.pkl').write_bytes(pickle.dumps(losses)); t = vl.read_log(folder); wide = t.pivot(index='epoch', columns='metric', values='value')
    assert wide.mse_step.tolist()==[.3, .2] and np.allclose(wide.mse_color + wide.mse_depth, wide.mse_step) and wide.mse_rec.tolist()==[.5, .4]
    assert of(t, metric='mse_rec').split.unique().tolist()==['test'] and t.samples.unique().tolist()==[20000, 40000]
    wide = vl.read_log(folder/'losses.pkl', divided_by='T').pivot(index='epoch', columns='metric', values='value'); assert wide.mse_step[0]==pytest.approx(.3*10/9) and wide.mse_rec[0]==.5   # of future frames only: its own mean

def test_runs_of_vislearn(tmp_path):
    t = vl.read_log(run_folder(tmp_path/'runs'/'video.svg'/'20260101-000000-abcdef', world=3))
    assert of(t, split='test', metric='mse_step').value.tolist()==pytest.approx([.4, .2, .4/3]) and t.samples.unique().tolist()==[240, 480, 720]                 # 10 steps x 4 films x 2 x 3 processes
    assert np.isnan(of(t, metric='kld_step').value.iloc[1]) and set(t.kind)=={'vislearn'}
    bare = tmp_path/'bare'; bare.mkdir(); log = MetricLog(bare); log.write(1, 0, 'train', dict(loss=1.)); log.close(); t = vl.read_log(bare); assert np.isnan(t.samples).all() and t.value.tolist()==[1]

def test_a_tree_of_everything_is_one_table_and_one_figure(tmp_path):
    printed(tmp_path/svg_name(dict(log_dir='lp')), 15); printed(tmp_path/svg_name(dict(log_dir='lp', beta=1e-6)), 15); fork = tmp_path/svg_name(dict(log_dir='lp', dataset='fabric-random')); fork.mkdir(parents=True)
    (fork/'losses.pkl').write_bytes(pickle.dumps(dict(epoch=[0, 1], mse_loss=[.3, .2], kld_loss=[1., 2.]))); printed(fork, 15)                                   # losses.pkl counts, not the text
    run_folder(tmp_path/'runs'/'video.svg'/'20260101-000000-abcdef'); run_folder(tmp_path/'runs'/'video.svg'/'20260102-000000-abcdef'); (tmp_path/'notes.txt').write_text('nothing of interest')
    t = vl.log_table(tmp_path); kinds = dict(t.groupby('run').kind.first())
    assert kinds=={'smmnist beta=0.0001': 'original', 'smmnist beta=1e-06': 'original', 'fabric-random': 'fork', 'mine (1)': 'vislearn', 'mine (2)': 'vislearn'}, kinds
    assert vl.log_table([tmp_path/'lp', tmp_path/'runs']).drop(columns='run').equals(t.drop(columns='run'))
    fig = vl.plot_logs(t); assert [a.get_ylabel() for a in fig.axes if a.lines]==['squared error per value', 'divergence [nats per step]']
    mse = fig.axes[0]; assert len(mse.lines)==5 + 2 and {l.get_label() for l in mse.lines}>={'mine (1)', 'mine (1), test', 'fabric-random'}
    same = [l for l in mse.lines if l.get_label()=='smmnist beta=1e-06'][0]; assert same.get_ydata().tolist()==pytest.approx([.5, .25, .2], abs=1e-5) and same.get_xdata().tolist()==[1, 2, 3]
    lines = {l.get_label(): l for l in vl.plot_logs(tmp_path, ['kld_step'], by='samples').axes[0].lines}
    assert lines['smmnist beta=1e-06'].get_xdata().tolist()==[6000, 12000, 18000] and 'fabric-random: samples unknown' in lines
    (tmp_path/'empty').mkdir()
    with pytest.raises(DataError, match='no training logs found'): vl.log_table(tmp_path/'empty')

class Harm:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args

@pytest.mark.parametrize('f,args', [(os.system, ('touch HARM',)), (eval, ("open('HARM', 'w')",)), (getattr, ('abc', 'upper')), (np.load, ('HARM',)), (pd.read_pickle, ('HARM',)), (bytearray, (10**9,)), (pickle.loads, (b'N.',))])
def test_harmful_pickles_do_nothing(f, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        (tmp_path/'losses.pkl').write_bytes(pickle.dumps(dict(epoch=[0], mse_loss=[Harm(f, *args)]), protocol))
        with pytest.raises(DataError, match='expected only numbers: nothing of it was run'): vl.load_losses('losses.pkl')
    assert not (tmp_path/'HARM').exists()

def test_pickles_cannot_change_the_reader(tmp_path):
    "Naming a helper and then setting attributes on it leaves the next file alone."
    path, good = tmp_path/'losses.pkl', pickle.dumps(dict(epoch=[np.float64(3)]))
    path.write_bytes(b"cnumpy.core.multiarray\nscalar\n}X\x08\x00\x00\x00__code__K\x01sb."); before = vl._scalar.__code__
    with pytest.raises(DataError): vl.load_losses(path)
    path.write_bytes(b"cnumpy\ndtype\n}X\x04\x00\x00\x00evilK\x01sb.")
    with pytest.raises(DataError): vl.load_losses(path)
    path.write_bytes(good); assert vl.load_losses(path)==dict(epoch=[3]) and vl._scalar.__code__ is before and not hasattr(np.dtype, 'evil')

def test_cut_off_and_foreign_files(tmp_path):
    whole = pickle.dumps(dict(epoch=list(range(30)), mse_loss=[np.float64(i) for i in range(30)])); path = tmp_path/'losses.pkl'; rng = np.random.default_rng(0)
    for n in range(0, len(whole)-1, 7):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError): vl.load_losses(path)
    for _ in range(300):                                                                                                                                         # damaged bytes: numbers, or one line
        data = bytearray(whole); data[rng.integers(len(data))] = rng.integers(256); path.write_bytes(data)
        try: vl.load_losses(path)
        except DataError as e: assert '\n' not in str(e)
    (tmp_path/'a.txt').write_bytes(b'\xff\xfe\x00binary')
    with pytest.raises(DataError, match='no line'): vl.read_log(tmp_path/'a.txt')
    with pytest.raises(FileNotFoundError): vl.read_log(tmp_path/'absent')

def test_a_run_started_again_counts_once(tmp_path):
    folder = tmp_path/svg_name({}); printed(folder, 15); text = (folder/'log.txt').read_text()
    (folder/'log.txt').write_text(text + '[01] mse loss: nan | kld loss: 7.00000 (6000)\n'); t = vl.read_log(folder)
    assert of(t, metric='kld_step').value.tolist()==pytest.approx([1, 7*15/14, 3], abs=1e-4) and np.isnan(of(t, metric='mse_step').value.iloc[1])

def test_the_seeds_log_line():
    "1.25 s per step, first epoch mse 0.02475, kld 0.41838: as printed, and as vislearn would print it."
    t = vl._long(vl.read_printed('[00] mse loss: 0.02475 | kld loss: 0.41838 (0)'), 'original', 15/14)
    assert t.value.tolist()==pytest.approx([.0265179, .4482643], abs=1e-6)

def test_wrong_arguments(tmp_path):
    (tmp_path/'a.log').write_text('[0] mse loss: 1 | kld loss: 1 (0)')
    with pytest.raises(UserError, match='say n_frames'): vl.read_log(tmp_path/'a.log')
    assert vl.log_table(tmp_path, n_frames=3).value.tolist()==[1.5, 1.5]
    with pytest.raises(UserError, match='no metric'): vl.plot_logs(vl.log_table(tmp_path, n_frames=3), ['ssim'])
