"Evaluation against a loop over films and samples, extremes, chance, any cut into batches; files on disk; figures"
import json, math
import numpy as np, pytest, torch
from PIL import Image
from vislearn.clips import Clip, Clips
from vislearn.core import ConfigError, DataError, UserError, real_data, sample_rng
from vislearn.video import evaluate as ve, figures as vf, metrics as vm
from vislearn.video.generate import CopyLast, SVGPredictor
from vislearn.video.svg import SVG, SVGConfig

def films(n=5, T=8, C=1, size=16, seed=0):
    return torch.rand(n, T, C, size, size, generator=torch.Generator().manual_seed(seed))

class Around:
    "Samples around the truth, which it knows by the number of the film."
    def __init__(self, truth, n_past, noise=.2): self.truth, self.n_past, self.noise, self.calls = truth, n_past, noise, []
    def __call__(self, frames, n_pred, actions, n_samples, seed, first):
        self.calls.append(len(frames)); out = []
        for i in range(len(frames)):
            future = self.truth[first+i, self.n_past:self.n_past+n_pred]
            out.append(torch.stack([(future + self.noise*torch.tensor(sample_rng(seed, s, first+i).normal(size=future.shape)).float()).clamp(0, 1) for s in range(n_samples)]))
        return torch.stack(out, 1)

P = ve.EvalProtocol(n_past=3, n_pred=5, n_samples=4, metrics=('psnr', 'ssim', 'mse'))
def run(truth, p=P, bs=2, **kw): return ve.evaluate(dict(model=Around(truth, p.n_past)), [(x, None) for x in truth.split(bs)], p, **kw)

@pytest.mark.parametrize('select', ['per-metric', 'ssim'])
@pytest.mark.parametrize('psnr', ['pooled', 'per-channel'])
def test_scores_equal_the_loop(select, psnr):
    x = films(C=3); p = P.replace(select=select, psnr=psnr); got = run(x, p); model = Around(x, 3)
    curves = {m: {k: [] for k in ('best', 'mean', 'worst')} for m in p.metrics}
    for i in range(len(x)):
        samples = model(x[i:i+1, :3], 5, None, 4, p.seed, i)[:, 0]
        table = {m: np.zeros((4, 5)) for m in p.metrics}
        for s in range(4):
            for t in range(5):
                a, b = samples[s, t].double(), x[i, 3+t].double(); table['mse'][s, t] = ((a-b)**2).mean(); table['ssim'][s, t] = vm.ssim(a, b)
                table['psnr'][s, t] = np.mean([-10*math.log10(((a[c]-b[c])**2).mean()) for c in range(3)]) if psnr=='per-channel' else -10*math.log10(((a-b)**2).mean())
        for m in p.metrics:
            by = 'ssim' if select=='ssim' else m; rank = table[by].mean(1)*(-1 if by=='mse' else 1)
            for k, v in dict(best=table[m][rank.argmax()], mean=table[m].mean(0), worst=table[m][rank.argmin()]).items(): curves[m][k].append(v)
    for m in p.metrics:
        for k in ('best', 'mean', 'worst'):
            v = np.array(curves[m][k]); assert np.allclose(got.scores['model'][m][k], v.mean(1), rtol=1e-4)
            band = got.curves['model'][m][k]; assert np.allclose(band.mean, v.mean(0), rtol=1e-4)
            assert np.allclose(band.half, [1.96*math.sqrt(sum((c - c.mean())**2)/4)/math.sqrt(5) for c in v.T], rtol=1e-3, atol=1e-6)      # 5 films

def test_perfect_worst_and_chance():
    x = (films(6)>.5).float(); noise = films(6, seed=9)
    known = lambda y: lambda f, n, a, S, seed, first: y[None, first:first+len(f), 3:3+n]
    r = ve.evaluate(dict(perfect=known(x), worst=known(1-x), chance=known(noise)), [(x, None)], P)
    assert (r.scores['perfect']['ssim']['best']==1).all() and np.allclose(r.scores['perfect']['psnr']['best'], 100) and (r.scores['perfect']['mse']['best']==0).all()
    assert np.allclose(r.scores['worst']['psnr']['best'], 0) and np.allclose(r.scores['worst']['mse']['best'], 1) and (r.scores['worst']['ssim']['best']<-.85).all()
    assert abs(r.scores['chance']['ssim']['best'].mean())<.05 and abs(r.scores['chance']['mse']['best'].mean() - 1/3)<.02                # E(u - b)² = 1/3
    assert r.scores['copy-last']['mse']['best'].mean()==pytest.approx(.5, abs=.03)                                                        # two coins

def same(a, b):
    return all(np.array_equal(a.scores[w][m][k], b.scores[w][m][k]) and np.array_equal(a.curves[w][m][k], b.curves[w][m][k], equal_nan=True)
        for w in a.scores for m in a.scores[w] for k in a.scores[w][m]) and np.array_equal(a.diversity['model'], b.diversity['model'])

@pytest.mark.parametrize('bs,budget', [(1, 2**26), (3, 2**26), (5, 1), (5, 4*5*256*2)])
def test_batches_and_budget_do_not_change_a_bit(bs, budget):
    x = films(); a, b = run(x, bs=5), run(x, bs=bs, budget=budget)
    assert same(a, b)
    for end in ('best', 'worst'):
        for f, g in zip(a.examples['model'][end], b.examples['model'][end], strict=True): assert f['number']==g['number'] and np.array_equal(f['best'], g['best']) and np.array_equal(f['truth'], g['truth'])

def test_the_budget_bounds_what_is_held_at_once():
    x = films(7); model = Around(x, 3); ve.evaluate(dict(model=model), [(x, None)], P, budget=2*4*5*256)
    assert model.calls==[2, 2, 2, 1]

def test_windows_are_averaged_per_film_and_short_films_skipped():
    x = films(3, T=9); p = P.replace(n_past=2, n_pred=3, stride=2, n_samples=1)
    copy = lambda f, n, a, S, seed, first: f[None, :, -1:].expand(1, -1, n, -1, -1, -1)
    r = ve.evaluate(dict(mine=copy), [(x, None), (films(2, T=4), None)], p); assert (r.n, r.skipped)==(3, 2)
    for i in range(3):
        windows = [[((x[i, s+1] - x[i, s+2+t])**2).mean().item() for t in range(3)] for s in (0, 2, 4)]                                   # 9 frames: three windows
        assert r.scores['mine']['mse']['best'][i]==pytest.approx(np.mean(windows), rel=1e-5)
    assert r.curves['mine']['mse']['best'].mean.shape==(3,) and set(r.scores)=={'mine', 'copy-last'}
    assert np.allclose(r.scores['mine']['mse']['best'], r.scores['copy-last']['mse']['best'])
    films_of = Clips.of([Clip(np.zeros((T, 16, 16, 1), np.uint8)) for T in (9, 9, 4, 9)]); r = ve.evaluate({}, ve.film_batches(films_of, p), p)
    assert (r.n, r.skipped)==(3, 1)
    with pytest.raises(DataError, match='films have 4 frames, the protocol needs 2'): ve.evaluate({}, ve.film_batches(films_of, p.replace(stride=None)), p.replace(stride=None))

def test_actions_stay_with_their_frames():
    time = torch.arange(9.)/10; x = time[None, :, None, None, None].expand(2, -1, 1, 16, 16); a = (time[:-1]*10)[None, :, None].expand(2, -1, 3); seen = []
    def model(f, n, actions, S, seed, first):
        assert actions.shape==(len(f), 4, 3); seen.extend((round(float(f[i, 0, 0, 0, 0])*10), actions[i, :, 0].tolist()) for i in range(len(f)))
        return f[None, :, -1:].expand(1, -1, n, -1, -1, -1)
    ve.evaluate(dict(model=model), [(x, a)], P.replace(n_past=2, n_pred=3, stride=2))
    assert seen==[(s, [s, s+1, s+2, s+3]) for _ in range(2) for s in (0, 2, 4)]

def test_bytes_and_floats_agree():
    x = (films()*255).byte(); copy = CopyLast()
    a, b = (ve.evaluate(dict(m=copy), [(f, None)], P) for f in (x, x.float()/255))
    assert np.array_equal(a.scores['m']['ssim']['best'], b.scores['m']['ssim']['best'])

def test_diversity_equals_the_pairs():
    s = films(24, T=6).reshape(4, 6, 6, 1, 16, 16); got = ve.diversity(s)
    pairs = [(s[i] - s[j]).square().mean((-1, -2, -3)) for i in range(4) for j in range(i)]
    assert torch.allclose(got, torch.stack(pairs).mean(0), rtol=1e-5)
    assert ve.diversity(s[:1].repeat(3, 1, 1, 1, 1, 1)).abs().max()<1e-12 and ve.diversity(s[:1]) is None

def test_legacy_has_twice_the_range():
    x = films(); r = {k: run(x, P.replace(ssim=k)) for k in ('legacy', 'sk7', 'gauss11')}
    y = Around(x, 3)(x[:, :3], 5, None, 4, 1, 0); want = vm.ssim(y, x[:, 3:], 'sk7', 2).mean(-1)
    assert np.allclose(r['legacy'].scores['model']['ssim']['best'], want.amax(0), atol=1e-6)
    assert len({round(float(v.scores['model']['ssim']['best'].mean()), 4) for v in r.values()})==3
    assert np.array_equal(r['legacy'].scores['model']['psnr']['best'], r['sk7'].scores['model']['psnr']['best'])                          # the range of PSNR stays 1

def test_presets_are_those_of_the_tables():
    got = {n: (p.n_past, p.n_pred, p.n_samples, p.ssim, p.data_range) for n, p in ve.PRESETS.items()}
    assert got['smmnist_srvp']==(5, 20, 100, 'gauss11', 1) and got['smmnist_paper'][:2]==(5, 25) and got['kth'][:2]==(10, 30) and got['bair'][:2]==(2, 28) and got['bridge'][:2]==(2, 8)
    assert got['fabric_v1'][:3]==(1, 5, 1) and ve.PRESETS['fabric_v1'].stride==1 and ve.PRESETS['smmnist_legacy'].ssim=='legacy'
    x = (films(2, T=7, C=4)*255).byte(); r = ve.evaluate(dict(m=CopyLast()), [(x, None)], ve.eval_preset('fabric_v1'))
    w = [vm.fabric_ssim(x[0, s], x[0, s+1:s+6]) for s in (0, 1)]
    assert r.scores['m']['ssim_depth']['best'][0]==pytest.approx(torch.stack([v.depth for v in w]).mean().item(), abs=1e-6) and r.scores['m']['ssim_color']['best'][0]==pytest.approx(torch.stack([v.color for v in w]).mean().item(), abs=1e-6)
    s = {m: r.scores['m'][m]['best'] for m in r.protocol.metrics}; assert np.allclose(s['mse'], .75*s['mse_color'] + .25*s['mse_depth'], rtol=1e-5)

def test_save_and_load(tmp_path):
    x = films(); model = Around(x, 3); model.card = dict(checkpoint=tmp_path/'best.pt', inner=dict(data=str(tmp_path/'set'), recipe='svg/nano'), dims=[1, 2])
    r = ve.evaluate(dict(model=model, one=CopyLast()), [(x, None)], P); path = r.save(tmp_path/'deep'/'r.json'); text = path.read_text(); back = ve.load_result(path)
    assert str(tmp_path) not in text and json.loads(text)['cards']['model']==dict(checkpoint='best.pt', inner=dict(data='set', recipe='svg/nano'), dims=[1, 2])
    assert back.protocol==P and back.n==5 and back.diversity['one'] is None and np.allclose(back.curves['model']['ssim']['best'].half, r.curves['model']['ssim']['best'].half, rtol=1e-5)
    for w in r.scores:
        for m in P.metrics: assert np.allclose(back.scores[w][m]['worst'], r.scores[w][m]['worst'], rtol=1e-6)
    film = r.examples['model']['worst'][0]; assert np.array_equal(back.examples['model']['worst'][0]['worst'], film['worst']) and back.examples['model']['worst'][0]['score']==pytest.approx(film['score'])
    assert sorted(p.name for p in path.parent.iterdir())==['r.json', 'r.npz'] and set(back.scores)=={'model', 'one'} and back.versus('one').round(4).equals(r.versus('one').round(4))
    one = ve.evaluate({}, [(x[:1], None)], P); again = ve.load_result(one.save(tmp_path/'one.json')); assert np.isnan(again.curves['copy-last']['psnr']['best'].half).all()   # one film has no band
    back.figure(); back.strip('best', 'model', 1)

def test_kept_films_are_the_extremes():
    x = films(9); r = run(x, bs=2, keep=3); level = r.scores['model']['psnr']['best']; order = np.argsort(-level)
    assert [f['number'] for f in r.examples['model']['best']]==order[:3].tolist() and [f['number'] for f in r.examples['model']['worst']]==order[::-1][:3].tolist()
    r = run(x, P.replace(metrics=('mse',)), keep=3); order = np.argsort(r.scores['model']['mse']['best'])
    assert [f['number'] for f in r.examples['model']['best']]==order[:3].tolist()
    f = r.examples['model']['best'][0]; assert f['truth'].shape==(8, 1, 16, 16) and f['best'].shape==(5, 1, 16, 16) and f['truth'].dtype==np.uint8

class Film(torch.nn.Module):
    def forward(self, x): return torch.stack([x.mean((1, 2, 3, 4)), x[:, :, -1].mean((1, 2, 3))], 1)
class Distance(torch.nn.Module):
    def forward(self, x, y): return (x - y).abs().mean((1, 2, 3))

def test_lpips_and_fvd_with_the_users_files(tmp_path):
    torch.jit.script(Film()).save(tmp_path/'i3d.pt'); torch.jit.script(Distance()).save(tmp_path/'lpips.pt'); x = films(40)*.5
    brighter = lambda f, n, a, S, seed, first: x[None, first:first+len(f), 3:] + .1
    p = P.replace(metrics=('lpips', 'fvd')); r = ve.evaluate(dict(m=brighter), [(b, None) for b in x.split(7)], p, plugins=dict(lpips=tmp_path/'lpips.pt', fvd=vm.FilmFeatures(tmp_path/'i3d.pt', size=None)))
    assert np.allclose(r.scores['m']['lpips']['best'], .2, atol=1e-5)
    assert r.sets['m']['fvd']==pytest.approx((.2*5/8)**2 + .2**2, rel=1e-3) and r.sets['copy-last']['fvd']>0 and r.table()['fvd', '']['m']==r.sets['m']['fvd']   # only the means move
    assert ve.load_result(r.save(tmp_path/'r.json')).sets['m']['fvd']==pytest.approx(r.sets['m']['fvd'], rel=1e-6)
    for m in ('lpips', 'fvd'):
        with pytest.raises(ConfigError, match='vislearn brings none') as e: ve.evaluate({}, [(x, None)], P.replace(metrics=(m,)))
        assert '\n' not in str(e.value)
    with pytest.raises(ConfigError, match="no metric 'fid'"): ve.evaluate({}, [(x, None)], P, plugins=dict(fid=1))

@pytest.mark.parametrize('frames,actions,text', [(films()*255, None, 'divide by 255'), (films()*math.nan, None, 'NaN'), (films()[0], None, r'a batch must be frames \(B, T, C, H, W\)'), (films(), torch.zeros(5, 8, 2), r'actions must be \(B, T-1, A\)')])
def test_bad_input_is_one_line(frames, actions, text):
    with pytest.raises(UserError, match=text) as e: ve.evaluate({}, [(frames, actions)], P)
    assert '\n' not in str(e.value)

def test_versus_and_table():
    x = films(); r = run(x); v = r.versus()
    d = r.scores['copy-last']['mse']['best'] - r.scores['model']['mse']['best']
    assert v.loc['mse', 'gain']==pytest.approx(d.mean()) and v.loc['mse', '±']==pytest.approx(1.96*d.std(ddof=1)/math.sqrt(5)) and v.loc['psnr', 'frames']==5
    assert r.versus('model', 'copy-last').loc['psnr', 'frames']==0 and r.table().loc['model', ('ssim', 'best')]==pytest.approx(r.scores['model']['ssim']['best'].mean())

@pytest.mark.parametrize('prior,actions', [('learned', 'none'), ('fixed', 'raw'), ('none', 'none')])
def test_a_network_through_its_predictor(prior, actions):
    torch.manual_seed(0); cfg = SVGConfig(image_width=64, channels=1, nf=4, g_dim=8, z_dim=0 if prior=='none' else 3, rnn_size=8, n_past=2, n_future=2, prior=prior, actions=actions, act_dim=2)
    x, a = films(5, T=6, size=64), torch.randn(5, 5, 2, generator=torch.Generator().manual_seed(1)); p = ve.EvalProtocol(n_past=2, n_pred=4, n_samples=3, metrics=('mse', 'ssim')); net = SVGPredictor(SVG(cfg).eval())
    both = lambda bs: [(x[i:i+bs], a[i:i+bs]) for i in range(0, 5, bs)]
    r, q = ve.evaluate(dict(svg=net, alone=CopyLast()), both(5), p), ve.evaluate(dict(svg=net), both(2), p, budget=1)
    assert set(r.scores)=={'svg', 'alone'} and set(q.scores)=={'svg', 'copy-last'} and r.cards['svg']['prior']==prior
    for m in p.metrics: assert np.allclose(r.scores['svg'][m]['best'], q.scores['svg'][m]['best'], atol=1e-5)
    assert (r.diversity['svg'] is None)==(prior=='none')                                                                                  # deterministic: one sample is scored, not three

@pytest.mark.skipif(real_data('robot_video/bridge_v2_25x10_64px.npz') is None, reason='Bridge clips are not in this installation')
def test_copied_frames_of_bridge_have_the_published_psnr():
    with np.load(real_data('robot_video/bridge_v2_25x10_64px.npz')) as z: clips = Clips.of(z['image_0'], z['action'][:, :-1])
    p = ve.eval_preset('bridge'); r = ve.evaluate({}, ve.film_batches(clips, p), p); curve = r.curves['copy-last']['psnr']['best'].mean
    assert np.allclose(curve, [28.74, 24.04, 22.03, 20.99, 20.34, 20.00, 19.80, 19.62], atol=.006) and curve.mean()==pytest.approx(21.95, abs=.006)   # stated beside the file

# figures

def test_gif_has_borders_captions_and_time(tmp_path):
    x = films(4, T=6, C=3, size=20); path = vf.save_gif(tmp_path/'sub'/'a.gif', dict(truth=x[:2], best=x[2:]), n_past=2, seconds=.1, scale=1)
    with Image.open(path) as g:
        assert g.n_frames==6 and g.info['duration']==100 and g.info['loop']==0 and g.size==(2*(20+6+2), 2*(20+6)+14)
        for t in range(6):
            g.seek(t); rgb = np.asarray(g.convert('RGB')).astype(int)
            assert np.abs(rgb[1, 5] - vf.CONTEXT).max()<25 and np.abs(rgb[1, 33] - (vf.CONTEXT if t<2 else vf.PREDICTED)).max()<25
            assert rgb[-14:].min()<150                                                                                                     # the caption is there
    before = path.read_bytes(); vf.save_gif(path, dict(truth=x[:2], best=x[2:]), n_past=2, seconds=.1, scale=1); assert path.read_bytes()==before
    with pytest.raises(DataError): vf.save_gif(path, dict(truth=x[:2], best=x[:1]))
    assert path.read_bytes()==before and [p.name for p in path.parent.iterdir()]==['a.gif']
    vf.save_gif(tmp_path/'d.gif', dict(truth=films(1, T=3, C=4)[0]), n_past=1)

def test_sheet_takes_the_best_and_different_others():
    x = films(3, T=6); s = films(30, T=4, seed=1).reshape(10, 3, 4, 1, 16, 16); s[7, 1] = x[1, 2:]
    best = vf.best_sample(x, s); assert best[1]==7 and best.tolist()==[min(range(10), key=lambda k: float(((s[k, i] - x[i, 2:])**2).sum())) for i in range(3)]
    rows = vf.pick_rows(x, s, seed=3); assert list(rows)==['truth', 'best', 'sample 1', 'sample 2', 'sample 3', 'sample 4'] and torch.equal(rows['best'][1], x[1])
    again = vf.pick_rows(x[:1], s[:, :1], seed=3); assert all(torch.equal(rows[k][:1], again[k]) for k in rows)                            # keyed by sequence
    assert not all(torch.equal(rows[k], v) for k, v in vf.pick_rows(x, s, seed=4).items())
    fig = vf.sample_sheet(x, s, most=2); assert len(fig.axes[0].get_yticks())==2*6

def test_equal_frames_give_equal_pixels():
    x = films(2, T=5, C=4); draw = lambda: np.asarray(vf.filmstrip(dict(a=x[0], b=x[1, 2:]), n_past=2).axes[0].images[0].get_array())
    assert np.array_equal(draw(), draw())
    one = draw(); assert one.shape[0]==2*(32+2+2)                                                                                           # colours above depth, border 1
