"""A plain, slow SPACE and SPACE-Time written from the specification, in the order of the published code

Glimpses are cut from copies of the image, one copy per cell; importance, colour and alpha are pasted apart by affine_grid and grid_sample; background components come one after the other; divergences and
likelihoods are those of torch.distributions; object continuity walks over active cells in Python and reads numbers back to the host. It is the oracle of test_objects_parity.py, the writer of old checkpoints
in test_objects_legacy.py and the slow side of benchmarks/bench_objects.py. All noise is handed in (`draw_noise`); weights come from a model of the library by `take`.
"""
import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

PARTS = ['fg_module.img_encoder.enc', 'fg_module.img_encoder.enc_lat', 'fg_module.img_encoder.enc_cat', 'fg_module.img_encoder.z_scale_net', 'fg_module.img_encoder.z_shift_net', 'fg_module.img_encoder.z_pres_net',
         'fg_module.img_encoder.z_depth_net', 'fg_module.z_what_net.enc_cnn', 'fg_module.z_what_net.enc_what', 'fg_module.glimpse_dec.dec', 'fg_module.glimpse_dec.dec_o', 'fg_module.glimpse_dec.dec_alpha',
         'bg_module.image_enc', 'bg_module.rnn_mask', 'bg_module.predict_mask', 'bg_module.mask_decoder', 'bg_module.comp_encoder', 'bg_module.comp_decoder', 'bg_module.rnn_mask_prior', 'bg_module.predict_mask_prior',
         'bg_module.predict_comp_prior']


def by_part(named):
    "Names of tensors, in order, for every part of the model; free vectors of the background are a part of their own each."
    out = {p: [] for p in PARTS}
    for name in named:
        part = max((p for p in PARTS if name.startswith(p + '.')), key=len, default=None)
        out.setdefault(part or name, []).append(name)
    return {k: v for k, v in out.items() if v}


def celu(n_in, n_out, k, s=1, p=0, groups=16): return [nn.Conv2d(n_in, n_out, k, s, p), nn.CELU(), nn.GroupNorm(groups, n_out)]
def up(n_in, n_out, r, groups): return [nn.Conv2d(n_in, n_out*r*r, 1), nn.PixelShuffle(r), nn.CELU(), nn.GroupNorm(groups, n_out)]
def elu(n_in, n_out, s, p): return [nn.Conv2d(n_in, n_out, 3, s, p), nn.BatchNorm2d(n_out), nn.ELU()]


class ImgEncoder(nn.Module):
    def __init__(self, G):
        super().__init__()
        s4, s5 = {16: (1, 1), 8: (1, 2), 4: (2, 2)}[G]
        self.enc = nn.Sequential(*celu(3, 16, 4, 2, 1, 4), *celu(16, 32, 4, 2, 1, 8), *celu(32, 64, 4, 2, 1, 8), *celu(64, 128, 3, s4, 1, 16), *celu(128, 256, 3, s5, 1, 32), *celu(256, 128, 1))
        self.enc_lat = nn.Sequential(*celu(128, 128, 3, 1, 1), *celu(128, 128, 3, 1, 1))
        self.enc_cat = nn.Sequential(*celu(256, 128, 3, 1, 1))
        self.z_scale_net, self.z_shift_net, self.z_pres_net, self.z_depth_net = nn.Conv2d(128, 4, 1), nn.Conv2d(128, 4, 1), nn.Conv2d(128, 1, 1), nn.Conv2d(128, 2, 1)
        row, col = torch.meshgrid(torch.arange(G), torch.arange(G), indexing='ij')
        self.register_buffer('offset', torch.stack([col, row]).float())
        self.G = G

    def forward(self, x, noise, tau, hints=None, c=0.):
        B, G = len(x), self.G
        enc = self.enc(x)
        enc = self.enc_cat(torch.cat([enc, self.enc_lat(enc)], 1))
        cells = lambda t: t.permute(0, 2, 3, 1).reshape(B, G*G, -1)
        pure = 8.8*torch.tanh(self.z_pres_net(enc))
        logits = cells(pure)
        out = SimpleNamespace(z_pres_prob_pure=torch.sigmoid(logits))
        if hints is not None: logits = 8.8*((1-c)*torch.tanh(cells(self.z_pres_net(enc))) + c*(2*hints[1]-1))
        u = noise['pres']
        out.z_pres = torch.sigmoid((logits + torch.log(u) - torch.log(1-u))/tau)
        out.z_pres_prob = torch.sigmoid(logits)
        mean, std = self.z_depth_net(enc).chunk(2, 1)
        out.depth_post = Normal(cells(mean), F.softplus(cells(std)))
        out.z_depth = out.depth_post.loc + out.depth_post.scale*noise['depth']
        mean, std = self.z_scale_net(enc).chunk(2, 1)
        out.scale_post = Normal(cells(mean), F.softplus(cells(std)) + 1e-15)
        scale = torch.sigmoid(out.scale_post.loc + out.scale_post.scale*noise['scale'])
        mean, std = self.z_shift_net(enc).chunk(2, 1)
        out.shift_post = Normal(cells(mean), F.softplus(cells(std)))
        shift = out.shift_post.loc + out.shift_post.scale*noise['shift']
        shift = (2/G)*(cells(self.offset[None].expand(B, -1, -1, -1)) + .5 + torch.tanh(shift)) - 1
        out.z_where_pure = out.z_where = torch.cat([scale, shift], -1)
        if hints is not None: out.z_where = (1-c)*out.z_where_pure + c*hints[2]
        return out


def spatial_transform(image, z_where, size, inverse=False, align_corners=False):
    "Crop the window `z_where` of every image, or put the image there."
    theta = torch.zeros(len(z_where), 2, 3, dtype=z_where.dtype, device=z_where.device)
    for k in range(2):
        scale, shift = z_where[:, k], z_where[:, 2+k]
        theta[:, k, k] = scale if not inverse else 1/(scale + 1e-9)
        theta[:, k, 2] = shift if not inverse else -shift/(scale + 1e-9)
    grid = F.affine_grid(theta, torch.Size(size), align_corners=align_corners)
    return F.grid_sample(image, grid, align_corners=align_corners)


class ZWhatEnc(nn.Module):
    def __init__(self, z_what=32):
        super().__init__()
        self.enc_cnn = nn.Sequential(*celu(3, 16, 3, 1, 1, 4), *celu(16, 32, 4, 2, 1, 8), *celu(32, 32, 3, 1, 1, 4), *celu(32, 64, 4, 2, 1, 8), *celu(64, 128, 4, 2, 1, 8), *celu(128, 256, 4, 1, 0, 16))
        self.enc_what = nn.Linear(256, 2*z_what)
    def forward(self, x):
        mean, std = self.enc_what(self.enc_cnn(x).flatten(1)).chunk(2, -1)
        return mean, F.softplus(std)


class GlimpseDec(nn.Module):
    def __init__(self, z_what=32):
        super().__init__()
        self.dec = nn.Sequential(*celu(z_what, 256, 1), *up(256, 128, 2, 16), *celu(128, 128, 3, 1, 1), *up(128, 128, 2, 16), *celu(128, 128, 3, 1, 1), *up(128, 64, 2, 8), *celu(64, 64, 3, 1, 1, 8),
                                 *up(64, 32, 2, 8), *celu(32, 32, 3, 1, 1, 8), *up(32, 16, 2, 4), *celu(16, 16, 3, 1, 1, 4))
        self.dec_o, self.dec_alpha = nn.Conv2d(16, 3, 3, 1, 1), nn.Conv2d(16, 1, 3, 1, 1)
    def forward(self, z):
        h = self.dec(z[:, :, None, None])
        return torch.sigmoid(self.dec_o(h)), torch.sigmoid(self.dec_alpha(h))


def boundary_kernel(g=32, width=6):
    "Ones at the border of a glimpse, divided by its area."
    kernel = torch.ones(g, g)/(g*g)
    kernel[width:-width, width:-width] = 0
    return kernel


class Foreground(nn.Module):
    def __init__(self, G, z_what=32, g=32):
        super().__init__()
        self.img_encoder, self.z_what_net, self.glimpse_dec = ImgEncoder(G), ZWhatEnc(z_what), GlimpseDec(z_what)
        self.G, self.g, self.z_what = G, g, z_what

    def forward(self, x, noise, opt, hints=None, c=0.):
        B, _, H, W = x.shape
        N, g, align = self.G**2, self.g, opt.align_corners
        out = self.img_encoder(x, noise, opt.tau, hints, c)
        z_where = out.z_where.reshape(B*N, 4)
        copies = torch.repeat_interleave(x, N, 0)
        glimpses = spatial_transform(copies, z_where, (B*N, 3, g, g), align_corners=align)
        mean, std = self.z_what_net(glimpses)
        out.what_post = Normal(mean.view(B, N, -1), std.view(B, N, -1))
        out.z_what = out.what_post.loc + out.what_post.scale*noise['what']
        o, alpha = self.glimpse_dec(out.z_what.reshape(B*N, -1))
        alpha_hat = alpha*out.z_pres.reshape(B*N, 1, 1, 1)
        y = alpha_hat*o
        importance = 100*alpha_hat*torch.sigmoid(-out.z_depth.reshape(B*N, 1, 1, 1))
        paste = lambda t: spatial_transform(t, z_where, (B*N, t.shape[1], H, W), True, align).view(B, N, -1, H, W)
        importance, y, alpha_hat = paste(importance), paste(y), paste(alpha_hat)
        weights = torch.softmax(importance, 1)
        out.fg, out.alpha_map = (weights*y).sum(1), (weights*alpha_hat).sum(1)
        eps, p, prior = 1e-15, out.z_pres_prob, torch.as_tensor(opt.prior_pres, dtype=x.dtype)
        out.kl_pres = (p*(torch.log(p + eps) - torch.log(prior + eps)) + (1-p)*(torch.log(1-p + eps) - torch.log(1-prior + eps))).flatten(1).sum(1)
        unit = Normal(0., 1.)
        out.kl_depth = kl_divergence(out.depth_post, unit).flatten(1).sum(1)
        out.kl_scale = kl_divergence(out.scale_post, Normal(torch.tensor(float(opt.prior_scale)), torch.tensor(opt.z_scale_std))).flatten(1).sum(1)
        out.kl_shift = kl_divergence(out.shift_post, unit).flatten(1).sum(1)
        out.kl_what = kl_divergence(out.what_post, unit).flatten(1).sum(1)
        out.boundary = x.new_zeros(B)
        if opt.boundary:
            kernel = boundary_kernel(g).to(x)[None, None]*out.z_pres.reshape(B*N, 1, 1, 1)
            overlap = 1000*paste(kernel).sum(1)*out.alpha_map
            out.boundary = -Normal(0., .7).log_prob(overlap).flatten(1).sum(1)
        return out


class Net(nn.Module):
    "A sequence under a name."
    def __init__(self, name, *layers): super().__init__(); self.name = name; self.add_module(name, nn.Sequential(*layers))
    def forward(self, x): return getattr(self, self.name)(x)


class CompDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(*elu(34, 32, 1, 0), *elu(32, 32, 1, 0), *elu(32, 32, 1, 0), *elu(32, 32, 1, 0), nn.Conv2d(32, 3, 1))
    def forward(self, z, size):
        n = size + 8
        at = torch.linspace(-1, 1, n, dtype=z.dtype, device=z.device)
        row, col = torch.meshgrid(at, at, indexing='ij')
        z = torch.cat([z[:, :, None, None].expand(-1, -1, n, n), torch.stack([col, row])[None].expand(len(z), -1, -1, -1)], 1)
        return torch.sigmoid(self.decoder(z))


class StrongDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.dec = nn.Sequential(*celu(32, 256, 1), *up(256, 256, 4, 16), *celu(256, 256, 3, 1, 1), *up(256, 128, 4, 16), *celu(128, 128, 3, 1, 1), *up(128, 64, 2, 8), *celu(64, 64, 3, 1, 1, 8), *up(64, 16, 4, 4),
                                 *celu(16, 16, 3, 1, 1, 4), *celu(16, 16, 3, 1, 1, 4), nn.Conv2d(16, 3, 3, 1, 1))
    def forward(self, z, size): return torch.sigmoid(self.dec(z[:, :, None, None]))


class Background(nn.Module):
    def __init__(self, K):
        super().__init__()
        self.K = K
        convs = lambda *c: [layer for a, b in zip(c, c[1:]) for layer in elu(a, b, 2, 1)]
        self.image_enc = Net('enc', *convs(3, 64, 64, 64, 64), nn.Flatten(), nn.Linear(4096, 64), nn.ELU())
        self.rnn_mask = nn.LSTMCell(32+64, 64)
        self.rnn_mask_h, self.rnn_mask_c, self.z_mask_0 = (nn.Parameter(torch.zeros(n)) for n in (64, 64, 32))
        self.predict_mask = Net('fc', nn.Linear(64, 64))
        self.mask_decoder = Net('dec', *celu(32, 256, 1), *up(256, 256, 4, 16), *celu(256, 256, 3, 1, 1), *up(256, 128, 2, 16), *celu(128, 128, 3, 1, 1), *up(128, 64, 4, 8), *celu(64, 64, 3, 1, 1, 8), *up(64, 16, 4, 4),
                                *celu(16, 16, 3, 1, 1, 4), *celu(16, 16, 3, 1, 1, 4), nn.Conv2d(16, 1, 3, 1, 1))
        self.comp_encoder = Net('encoder', *convs(4, 32, 32, 64, 64), nn.Flatten(), nn.Linear(4096, 64))
        self.comp_decoder = CompDecoder() if K > 1 else StrongDecoder()
        self.rnn_mask_prior = nn.LSTMCell(32, 64)
        self.rnn_mask_h_prior, self.rnn_mask_c_prior = (nn.Parameter(torch.zeros(64)) for _ in range(2))
        self.predict_mask_prior = Net('fc', nn.Linear(64, 64))
        self.predict_comp_prior = Net('fc', nn.Linear(32, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 64))

    @staticmethod
    def normal(stats):
        loc, scale = stats.chunk(2, -1)
        return Normal(loc, F.softplus(scale) + 1e-4)

    def forward(self, x, noise, opt):
        B, _, H, W = x.shape
        enc = self.image_enc(x)
        masks, z_masks, mask_posts, rest = [], [], [], torch.ones_like(x[:, :1])
        h, c, z = (v.expand(B, -1) for v in (self.rnn_mask_h, self.rnn_mask_c, self.z_mask_0))
        for k in range(self.K):
            h, c = self.rnn_mask(torch.cat([z, enc], -1), (h, c))
            post = self.normal(self.predict_mask(h))
            z = post.loc + post.scale*noise['bg_mask'][:, k]
            z_masks.append(z); mask_posts.append(post)
            if k < self.K-1:
                m = torch.sigmoid(self.mask_decoder(z[:, :, None, None]))
                masks.append(rest*m); rest = rest*(1-m)
        masks.append(rest)
        together = self.normal(self.comp_encoder(torch.cat([torch.cat([torch.log(m + 1e-5), x], 1)[:, None] for m in masks], 1).flatten(0, 1))) # batch norm sees all components at once
        z_comp = together.loc + together.scale*noise['bg_comp'].flatten(0, 1)
        comps = self.comp_decoder(z_comp, H).view(B, self.K, 3, H, W)
        h, c = (v.expand(B, -1) for v in (self.rnn_mask_h_prior, self.rnn_mask_c_prior))
        kl, terms = x.new_zeros(B), []
        for k in range(self.K):
            kl = kl + kl_divergence(mask_posts[k], self.normal(self.predict_mask_prior(h))).sum(-1)
            h, c = self.rnn_mask_prior(z_masks[k], (h, c))
            post = Normal(together.loc.view(B, self.K, -1)[:, k], together.scale.view(B, self.K, -1)[:, k])
            kl = kl + kl_divergence(post, self.normal(self.predict_comp_prior(z_masks[k]))).sum(-1)
            terms.append(Normal(comps[:, k], opt.bg_sigma).log_prob(x) + torch.log(masks[k] + 1e-5))
        masks = torch.stack(masks, 1)
        return SimpleNamespace(log_like=torch.logsumexp(torch.stack(terms, 1), 1), bg=(masks*comps).sum(1), kl_bg=kl, masks=masks, comps=comps)


def linear(step, ramp):
    "The value of (start step, end step, start value, end value) at a step."
    start, end, first, last = ramp
    if step <= start: return first
    if step >= end: return last
    return first + (last-first)*(step-start)/(end-start)


class Reference(nn.Module):
    "SPACE in the order of the original. `opt` holds what the config of the library holds, by the same names."
    def __init__(self, G=8, K=3, fg_sigma=.2, bg_sigma=.1, z_scale_std=.1, pres_prior=(1000, 5000, .1, 1e-10), scale_prior=(0, 5000, -2., -2.5), tau=(0, 1, 2.5, 2.5), fix_alpha_steps=-1, fix_alpha=.1, boundary_loss=False,
                 bl_off_step=10**8, align_corners=False, z_what=32, glimpse=32):
        super().__init__()
        self.fg_module, self.bg_module = Foreground(G, z_what, glimpse), Background(K)
        self.opt = SimpleNamespace(G=G, K=K, fg_sigma=fg_sigma, bg_sigma=bg_sigma, z_scale_std=z_scale_std, pres_prior=pres_prior, scale_prior=scale_prior, tau=tau, fix_alpha_steps=fix_alpha_steps, fix_alpha=fix_alpha,
                                   boundary_loss=boundary_loss, bl_off_step=bl_off_step, align_corners=align_corners)

    def take(self, model):
        "Copy the weights of a model of the library, part by part in order."
        theirs, mine = model.state_dict(), self.state_dict()
        with torch.no_grad():
            for name, other in self.pairs(mine, theirs): mine[name].copy_(theirs[other])
        return self

    def pairs(self, mine, theirs):
        "Which of my tensors is which of theirs."
        a, b = by_part(mine), by_part(theirs)
        for part, names in a.items():
            if part not in b and self.opt.K == 1: continue # the library leaves out what the only component does not use
            if part not in b or len(b[part]) != len(names): raise ValueError(f'{part}: {names} here, {b.get(part)} there')
            for name, other in zip(names, b[part]):
                if mine[name].shape != theirs[other].shape: raise ValueError(f'{name} {tuple(mine[name].shape)} is not {other} {tuple(theirs[other].shape)}')
                yield name, other

    def now(self, step):
        o = self.opt
        return SimpleNamespace(tau=linear(step, o.tau), prior_pres=linear(step, o.pres_prior), prior_scale=linear(step, o.scale_prior), z_scale_std=o.z_scale_std, bg_sigma=o.bg_sigma, align_corners=o.align_corners,
                               boundary=o.boundary_loss and step <= o.bl_off_step)

    def forward(self, x, noise, step=0, hints=None, cool_steps=3000):
        "Everything the original computes for the images `x`, (N, 3, H, W), at a step; hints are (motion map, presence, position)."
        now, o = self.now(step), self.opt
        c = max(0., 1-step/cool_steps) if hints is not None else 0.
        out, bg = self.fg_module(x, noise, now, hints, c), self.bg_module(x, noise, now)
        out.alpha_map_pure = out.alpha_map
        if hints is not None: out.alpha_map = (1-c)*out.alpha_map_pure + c*hints[0]
        alpha = out.alpha_map
        if step and step < o.fix_alpha_steps: alpha = torch.ones_like(alpha)*o.fix_alpha
        fg_like = Normal(out.fg, o.fg_sigma).log_prob(x)
        both = torch.stack([fg_like + torch.log(alpha + 1e-5), bg.log_like + torch.log(1-alpha + 1e-5)], 1)
        out.log_like = torch.logsumexp(both, 1).flatten(1).sum(1)
        out.bg, out.masks, out.comps, out.kl_bg, out.used_alpha = bg.bg, bg.masks, bg.comps, bg.kl_bg, alpha
        out.y = alpha*out.fg + (1-alpha)*bg.bg
        out.kl_fg = out.kl_pres + out.kl_depth + out.kl_scale + out.kl_shift + out.kl_what
        out.elbo_loss = -(out.log_like - out.kl_bg - out.kl_fg) + out.boundary
        out.mse = (out.y-x).square().flatten(1).sum(1)
        return out


def draw_noise(N, G=8, K=3, z_what=32, seed=0, dtype=torch.float32):
    "All random numbers of a forward pass: uniform for presence, normal for everything else."
    gen = torch.Generator().manual_seed(seed)
    normal = lambda *s: torch.randn(*s, generator=gen, dtype=torch.float64).to(dtype)
    return dict(pres=torch.rand(N, G*G, 1, generator=gen, dtype=torch.float64).clamp(1e-6, 1-1e-6).to(dtype), depth=normal(N, G*G, 1), scale=normal(N, G*G, 2), shift=normal(N, G*G, 2),
                what=normal(N, G*G, z_what), bg_mask=normal(N, K, 32), bg_comp=normal(N, K, 32))


def continuity_loop(z_what, z_where, z_pres_prob, match=5., cosine=True, agree=True, wrap=True, threshold=.5):
    "Object continuity of (B, T, N, .) cell by cell, numbers read back to the host as the original does."
    B, T, N, _ = z_what.shape
    G, total = int(math.sqrt(N)), z_what.new_zeros(())
    for b in range(B):
        for t in range(T-1):
            here, there = z_pres_prob[b, t].flatten() > threshold, z_pres_prob[b, t+1].flatten() > threshold
            for u in torch.nonzero(here).flatten().tolist():
                row, col = divmod(u, G)
                cells = []
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        i, j = row+di, col+dj
                        if wrap: i, j = i % G, j % G
                        if 0 <= i < G and 0 <= j < G and there[i*G+j].item(): cells.append(i*G+j)
                if not cells: continue
                a, others = z_what[b, t, u], z_what[b, t+1, cells]
                sim = F.cosine_similarity(a[None], others, dim=-1) if cosine else 1/(1 + (a-others).square().mean(-1))
                if len(cells) > 1 and agree:
                    far = (z_where[b, t, u]-z_where[b, t+1, cells]).square().sum(-1)
                    if sim.argmax().item() != far.argmin().item(): continue
                total = total - match*sim.max() + sim.sum()
    return total


def hint_distance(p, where, hint_p, hint_where):
    "Mean distance from hints to the nearest prediction; frames are told apart by a fifth number."
    found, hinted = p > .5, hint_p > .5
    if not found.any().item() or not hinted.any().item(): return 1000.
    frame = 10*torch.arange(len(p), dtype=where.dtype)[:, None].expand(p.shape)[..., None]
    a, b = torch.cat([hint_where, frame], -1)[hinted], torch.cat([where, frame], -1)[found]
    return (a[:, None]-b[None]).abs().sum(-1).min(1).values.mean().item()


class Moc:
    "The losses of SPACE-Time, sums over the batch, with the schedule on the host."
    def __init__(self, motion_weight=100., area_object_weight=10., steepness=2., use_variance=True, variance_steps=20, underestimating=2., found_lambda=.025, offset=.1, weights=(10., 100., 1.), wrap=True, dynamic=True, cool_steps=3000):
        self.motion_weight, self.object_weight, self.steepness, self.use_variance, self.steps = motion_weight, area_object_weight, steepness, use_variance, variance_steps
        self.underestimating, self.found_lambda, self.offset, self.weights, self.wrap, self.dynamic, self.cool_steps, self.past = underestimating, found_lambda, offset, weights, wrap, dynamic, cool_steps, []

    def align(self, out, z_pres, z_where, step):
        if not self.dynamic: return 1-max(0., 1-step/self.cool_steps)
        p = out.z_pres_prob_pure.detach()
        d = hint_distance(p[..., 0], out.z_where_pure.detach(), z_pres, z_where)
        found, hinted = p.mean().item(), z_pres.mean().item()
        v = max(0., (d-self.offset)*self.found_lambda) + max(0., found-self.underestimating*hinted)
        self.past = (self.past or [found-hinted]) + [found-hinted]
        self.past = self.past[-self.steps:]
        r = torch.tensor(self.past, dtype=torch.float64).var().item()
        return self.steepness**-((v + self.use_variance*r)*p.shape[1])

    def __call__(self, out, motion, z_pres, z_where, step=0):
        "Loss of (B, T, ...) hints, and what it is made of."
        B, T = z_pres.shape[:2]
        hint_p, hint_where = z_pres.flatten(0, 1), z_where.flatten(0, 1)
        p, where = out.z_pres_prob_pure[..., 0], out.z_where_pure
        pres = (p-hint_p).square().sum()
        moving, found = hint_p > .5, p > .5
        place = (where[moving]-hint_where[moving]).square().sum() + (where[found]-hint_where[found]).square().sum()
        alpha = (out.alpha_map_pure-motion.flatten(0, 1)[:, None]).square().sum()
        clips = lambda t: t.unflatten(0, (B, T))
        oc = continuity_loop(clips(out.z_what), clips(out.z_where), clips(out.z_pres_prob), wrap=self.wrap)
        align = self.align(out, hint_p, hint_where, step)
        lm = self.weights[0]*pres + self.weights[1]*place + self.weights[2]*alpha
        return out.elbo_loss.mean() + self.object_weight*align*oc + self.motion_weight*(1-align)*lm, SimpleNamespace(motion=lm, continuity=oc, align=align)


def training_step(model, fg_lr=3e-5, bg_lr=1e-3, clip=1.):
    "Two optimizers after one backward pass, clipped together. Returns a function of the loss."
    fg, bg = torch.optim.RMSprop(model.fg_module.parameters(), lr=fg_lr), torch.optim.Adam(model.bg_module.parameters(), lr=bg_lr)
    def step(loss):
        fg.zero_grad(); bg.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        fg.step(); bg.step()
    return step
