"Losses of the terrain pipeline against torch's own, loops, closed values and finite differences."
import pytest, torch
from torch.autograd import gradcheck
from torch.nn import functional as F
from vislearn.core import ConfigError, DataError
from vislearn.terrain.losses import batch_triplet_loss, bradley_terry_loss, distances, rank_loss, triplet_loss, vicreg_loss

def unit(*shape, seed=0): return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)

@pytest.mark.parametrize('swap', [True, False])
@pytest.mark.parametrize('margin', [.3, 1.])
def test_triplet_equals_torch(swap, margin):
    a, p, n = unit(50, 8, seed=1), unit(50, 8, seed=2), unit(50, 8, seed=3)
    for r in ('mean', 'sum', 'none'): assert torch.allclose(triplet_loss(a, p, n, margin, swap, r), F.triplet_margin_loss(a, p, n, margin, eps=1e-6, swap=swap, reduction=r), atol=1e-9)

def test_triplet_closed_values():
    e = torch.eye(3).double()[:, None]
    assert triplet_loss(e[0], e[0], -e[0])==0 and abs(triplet_loss(e[0], e[1], e[2])-1)<1e-5
    a, p, n = (torch.tensor([v]).double() for v in ([1., 0], [0., 1], [-1., 0]))
    assert abs(triplet_loss(a, p, n)-1)<1e-5 and abs(triplet_loss(a, p, n, swap=False)-.4142136)<1e-5

@pytest.mark.parametrize('swap', [True, False])
def test_batch_triplet_equals_the_loop(swap):
    label = torch.tensor([0, 1, 0, 2, 1, 1, 2, 0, 3]); z = unit(9, 5) # 3 has no positive: it is only ever a negative
    terms = torch.stack([triplet_loss(z[[i]], z[[j]], z[[k]], .8, swap) for i in range(9) for j in range(9) for k in range(9) if i!=j and label[i]==label[j] and label[i]!=label[k]])
    assert torch.allclose(batch_triplet_loss(z, label, .8, swap, 'all'), terms.mean(), atol=1e-5)
    assert torch.allclose(batch_triplet_loss(z, label, .8, swap), terms.sum()/(terms>0).sum(), atol=1e-5)
    order = torch.randperm(9); assert torch.allclose(batch_triplet_loss(z[order], label[order]), batch_triplet_loss(z, label))

def test_batch_triplet_with_equal_points_has_a_finite_gradient():
    z = torch.ones(6, 4, dtype=torch.float64, requires_grad=True); loss = batch_triplet_loss(z, torch.tensor([0, 0, 0, 1, 1, 1])); loss.backward()
    assert abs(loss.item()-1)<1e-5 and torch.isfinite(z.grad).all() and torch.isfinite(distances(z)).all()

def test_vicreg_closed_values_and_symmetry():
    o, l = torch.zeros(7, 3).double(), torch.ones(7, 3).double()
    assert abs(vicreg_loss(o, o)-49.5)<1e-6 and abs(vicreg_loss(l, o)-74.5)<1e-6
    H = torch.tensor([[1., 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]]).double()
    assert abs(vicreg_loss(H, H))<1e-9
    a, b = torch.randn(8, 5).double(), torch.randn(8, 5).double(); assert torch.allclose(vicreg_loss(a, b), vicreg_loss(b, a))

def test_vicreg_covariance_against_torch():
    a = torch.randn(20, 4).double(); C = torch.cov(a.T); off = (C - C.diag().diag()).pow(2).sum()/4
    assert torch.allclose(vicreg_loss(a, a, 0, 0, 1), 2*off)

@pytest.mark.parametrize('c1,c2,y,want', [(0, 2, -1, 0), (2, 0, -1, 3), (.5, .5, 0, 0), (1, 1.05, 0, 0), (1, 1.3, 0, .2), (1, 1, -1, 1), (0, 1, 1, 2)])
def test_rank_closed_values(c1, c2, y, want):
    c1, c2, y = (torch.tensor([v], dtype=torch.float64) for v in (c1, c2, y))
    assert abs(rank_loss(c1, c2, y)-want)<1e-12 and rank_loss(c1, c2, y)==rank_loss(c2, c1, -y)

def test_rank_equals_margin_ranking_and_takes_one_margin_per_pair():
    c1, c2 = torch.randn(40).double(), torch.randn(40).double(); y = torch.randint(0, 2, (40,))*2-1; m = torch.rand(40).double()
    for r in ('mean', 'sum', 'none'): assert torch.allclose(rank_loss(c1, c2, y, .7, r), F.margin_ranking_loss(c1, c2, y, margin=.7, reduction=r))
    assert torch.allclose(rank_loss(c1, c2, y, m, 'none')[3], rank_loss(c1[3:4], c2[3:4], y[3:4], m[3].item())[None])

def test_rank_subgradients():
    c1 = torch.tensor([2., 0, 1.5, .2, 0], requires_grad=True); c2 = torch.tensor([0., 1, 1, .25, 5])
    rank_loss(c1, c2, torch.tensor([-1, 1, 0, 0, -1]), reduction='sum').backward()
    assert c1.grad.tolist()==[1, -1, 1, 0, 0]

def test_gradients_against_finite_differences():
    z = [unit(6, 4, seed=s).requires_grad_() for s in range(3)]; label = torch.tensor([0, 0, 1, 1, 2, 2])
    assert gradcheck(lambda *t: triplet_loss(*t), z) and gradcheck(lambda t: batch_triplet_loss(t, label), z[:1]) and gradcheck(lambda a, b: vicreg_loss(a, b), z[:2])
    c = [torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(s), requires_grad=True) for s in range(2)]; y = torch.tensor([-1, 0, 1, -1, 0, 1])
    assert gradcheck(lambda a, b: rank_loss(a, b, y), c) and gradcheck(lambda a, b: bradley_terry_loss(a, b, y), c)

def test_bradley_terry_prefers_the_right_order_and_is_antisymmetric():
    c1, c2, y = torch.tensor([0., 2]), torch.tensor([2., 0]), torch.tensor([-1, -1])
    assert bradley_terry_loss(c1[:1], c2[:1], y[:1])<bradley_terry_loss(c1[1:], c2[1:], y[1:])
    assert torch.allclose(bradley_terry_loss(c1, c2, y), bradley_terry_loss(c2, c1, -y))
    assert torch.allclose(bradley_terry_loss(c1[:1], c2[:1], y[:1]), -F.logsigmoid(torch.tensor(2.)))

def test_errors():
    with pytest.raises(ConfigError, match='reduction must be'): triplet_loss(*[unit(2, 3)]*3, reduction='x')
    with pytest.raises(DataError, match='two categories'): batch_triplet_loss(unit(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(DataError, match='one shape'): rank_loss(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))
    with pytest.raises(DataError, match='at least 2 rows'): vicreg_loss(unit(3, 2), unit(4, 2))
