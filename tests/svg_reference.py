"""A plain, slow SVG written from the specification, in the order of the published training script

One module per network, hidden states kept on the modules, frames encoded and decoded one by one, skips concatenated, one Adam per module. It is the oracle of
test_video_parity.py, the writer of old checkpoints in test_video_legacy.py and the slow side of benchmarks/bench_video.py. Frames are lists of (B, C, H, W), actions (T-1, B, A).
All noise is handed in as `eps`, (T-1, B, Z), row i-1 for step i; without it, it is drawn step by step, the prior's unused draw included.
"""
import re
import torch
from torch import nn
from torch.nn import functional as F


def weights_init(m):
    "Normal weights by kind of module, biases 0; recurrent cells keep their own."
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)): nn.init.normal_(m.weight, 0., .02); nn.init.zeros_(m.bias)
    if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.weight, 1., .02); nn.init.zeros_(m.bias)


def sequence_names(state):
    "Names of a stack of cells as those of one `nn.LSTM`."
    return {re.sub(r'^lstm\.(\d+)\.(weight|bias)_(ih|hh)$', r'lstm.\2_\3_l\1', k): v for k, v in state.items()}


def count(*modules): return sum(p.numel() for m in modules for p in m.parameters())


class Block(nn.Module):
    "An operation, batch norm and a leaky ReLU, under the name `main`."
    def __init__(self, op, n):
        super().__init__()
        self.main = nn.Sequential(op, nn.BatchNorm2d(n), nn.LeakyReLU(.2))
    def forward(self, x): return self.main(x)


def head(n, dim): return nn.Sequential(nn.Conv2d(n, dim, 4), nn.BatchNorm2d(dim), nn.Tanh())
def stem(dim, n): return nn.Sequential(nn.ConvTranspose2d(dim, n, 4), nn.BatchNorm2d(n), nn.LeakyReLU(.2))


def dcgan_sizes(width, nf):
    "Channels of the stages, paddings down, paddings up, additional output rows up."
    if width == 64: return [nf, 2*nf, 4*nf, 8*nf], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]
    if width == 56: return [nf, 2*nf, 4*nf, 8*nf], [2, 2, 2, 1], [1, 2, 2, 2], [0, 1, 1, 0]
    return [nf, 2*nf, 4*nf, 8*nf, 8*nf], [1]*5, [1]*5, [0]*5


class DcganEncoder(nn.Module):
    def __init__(self, width, nc, dim=128, nf=64):
        super().__init__()
        outs, pads, _, _ = dcgan_sizes(width, nf)
        self.dim, self.n = dim, len(outs)
        for k, (n_in, n_out, p) in enumerate(zip([nc, *outs], outs, pads)): setattr(self, f'c{k+1}', Block(nn.Conv2d(n_in, n_out, 4, 2, p), n_out))
        setattr(self, f'c{self.n+1}', head(outs[-1], dim))
    def forward(self, x):
        skips = []
        for k in range(self.n): x = getattr(self, f'c{k+1}')(x); skips.append(x)
        return getattr(self, f'c{self.n+1}')(x).view(-1, self.dim), skips


class DcganDecoder(nn.Module):
    def __init__(self, width, nc, dim=128, nf=64):
        super().__init__()
        outs, _, pads, extra = dcgan_sizes(width, nf)
        self.dim, self.n = dim, len(outs)
        self.upc1 = stem(dim, outs[-1])
        for k, (n_in, n_out, p, e) in enumerate(zip(outs[:0:-1], outs[-2::-1], pads, extra)): setattr(self, f'upc{k+2}', Block(nn.ConvTranspose2d(2*n_in, n_out, 4, 2, p, output_padding=e), n_out))
        setattr(self, f'upc{self.n+1}', nn.Sequential(nn.ConvTranspose2d(2*outs[0], nc, 4, 2, pads[-1], output_padding=extra[-1]), nn.Sigmoid()))
    def forward(self, pair):
        g, skips = pair
        x = self.upc1(g.view(-1, self.dim, 1, 1))
        for k in range(self.n): x = getattr(self, f'upc{k+2}')(torch.cat([x, skips[self.n-1-k]], 1))
        return x


def vgg_stage(*chans): return nn.Sequential(*(Block(nn.Conv2d(i, o, 3, 1, 1), o) for i, o in zip(chans, chans[1:])))


class VggEncoder(nn.Module):
    def __init__(self, width, nc, dim=128, nf=64):
        super().__init__()
        stages = [[nc, nf, nf], [nf, 2*nf, 2*nf], [2*nf, 4*nf, 4*nf, 4*nf], [4*nf, 8*nf, 8*nf, 8*nf]] + [[8*nf]*4]*(width == 128)
        self.dim, self.n = dim, len(stages)
        for k, chans in enumerate(stages): setattr(self, f'c{k+1}', vgg_stage(*chans))
        setattr(self, f'c{self.n+1}', head(8*nf, dim))
        self.mp = nn.MaxPool2d(2, 2)
    def forward(self, x):
        skips = []
        for k in range(self.n): x = getattr(self, f'c{k+1}')(x); skips.append(x); x = self.mp(x)
        return getattr(self, f'c{self.n+1}')(x).view(-1, self.dim), skips


class VggDecoder(nn.Module):
    def __init__(self, width, nc, dim=128, nf=64):
        super().__init__()
        stages = [[16*nf, 8*nf, 8*nf, 8*nf]]*(width == 128) + [[16*nf, 8*nf, 8*nf, 4*nf], [8*nf, 4*nf, 4*nf, 2*nf], [4*nf, 2*nf, nf]]
        self.dim, self.n = dim, len(stages)+1
        self.upc1 = stem(dim, 8*nf)
        for k, chans in enumerate(stages): setattr(self, f'upc{k+2}', vgg_stage(*chans))
        setattr(self, f'upc{self.n+1}', nn.Sequential(Block(nn.Conv2d(2*nf, nf, 3, 1, 1), nf), nn.ConvTranspose2d(nf, nc, 3, 1, 1), nn.Sigmoid()))
        self.up = nn.UpsamplingNearest2d(scale_factor=2)
    def forward(self, pair):
        g, skips = pair
        x = self.upc1(g.view(-1, self.dim, 1, 1))
        for k in range(self.n): x = getattr(self, f'upc{k+2}')(torch.cat([self.up(x), skips[self.n-1-k]], 1))
        return x


class Lstm(nn.Module):
    "A stack of cells that remembers where it is."
    def __init__(self, n_in, n_out, hidden, layers):
        super().__init__()
        self.hidden_size, self.n_layers = hidden, layers
        self.embed = nn.Linear(n_in, hidden)
        self.lstm = nn.ModuleList([nn.LSTMCell(hidden, hidden) for _ in range(layers)])
        self.output = nn.Sequential(nn.Linear(hidden, n_out), nn.Tanh())
    def init_hidden(self, batch): self.hidden = [(self.embed.weight.new_zeros(batch, self.hidden_size),)*2 for _ in range(self.n_layers)]
    def step(self, x):
        x = self.embed(x)
        for l, cell in enumerate(self.lstm): self.hidden[l] = cell(x, self.hidden[l]); x = self.hidden[l][0]
        return x
    def forward(self, x): return self.output(self.step(x))


class GaussianLstm(nn.Module):
    "The same with two heads and a sample."
    def __init__(self, n_in, n_out, hidden, layers):
        super().__init__()
        self.hidden_size, self.n_layers = hidden, layers
        self.embed = nn.Linear(n_in, hidden)
        self.lstm = nn.ModuleList([nn.LSTMCell(hidden, hidden) for _ in range(layers)])
        self.mu_net, self.logvar_net = nn.Linear(hidden, n_out), nn.Linear(hidden, n_out)
    init_hidden, step = Lstm.init_hidden, Lstm.step
    def forward(self, x, eps=None):
        x = self.step(x)
        mu, logvar = self.mu_net(x), self.logvar_net(x)
        return mu + (torch.randn_like(mu) if eps is None else eps)*torch.exp(.5*logvar), mu, logvar


class ActionEmbed(nn.Module):
    def __init__(self, n_in=4, n_out=32):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(n_in, n_out), nn.Linear(n_out, n_out)
    def forward(self, a): return self.fc2(F.relu(self.fc1(a)))


def kl_gauss(mu1, logvar1, mu2, logvar2, batch):
    s1, s2 = torch.exp(.5*logvar1), torch.exp(.5*logvar2)
    return (torch.log(s2/s1) + (torch.exp(logvar1) + (mu1-mu2)**2)/(2*torch.exp(logvar2)) - .5).sum()/batch


def kl_unit(mu, logvar, batch): return -.5*torch.sum(1 + logvar - mu**2 - torch.exp(logvar))/batch


class Reference:
    "The networks, their optimizers, the training step and the sampling of the original and of its fork."
    def __init__(self, arch='dcgan', width=64, channels=1, n_past=5, n_future=10, g_dim=128, z_dim=10, rnn_size=256, layers=(2, 1, 1), nf=64, prior='learned', actions='none', act_dim=4, skip='fixed', beta=1e-4, lr=.002):
        self.n_past, self.n_future, self.kind, self.actions, self.skip, self.beta = n_past, n_future, prior, actions, skip, beta
        a = dict(none=0, raw=act_dim, learned=32)[actions]
        enc, dec = (DcganEncoder, DcganDecoder) if arch == 'dcgan' else (VggEncoder, VggDecoder)
        self.frame_predictor = Lstm(g_dim+a+z_dim, g_dim, rnn_size, layers[0])
        if prior != 'none': self.posterior = GaussianLstm(g_dim, z_dim, rnn_size, layers[1])
        if prior == 'learned': self.prior = GaussianLstm(g_dim+a, z_dim, rnn_size, layers[2])
        self.encoder, self.decoder = enc(width, channels, g_dim, nf), dec(width, channels, g_dim, nf)
        if actions == 'learned': self.act_embed = ActionEmbed(act_dim)
        for m in self.modules.values(): m.apply(weights_init)
        self.optimizers = {k: torch.optim.Adam(m.parameters(), lr=lr, betas=(.9, .999)) for k, m in self.modules.items()}

    @property
    def modules(self): return {k: getattr(self, k) for k in ('frame_predictor', 'posterior', 'prior', 'encoder', 'decoder', 'act_embed') if hasattr(self, k)}
    @property
    def recurrent(self): return [m for k, m in self.modules.items() if k in ('frame_predictor', 'posterior', 'prior')]
    def parameters(self): return [p for m in self.modules.values() for p in m.parameters()]
    def apply(self, fn):
        for m in self.modules.values(): fn(m)
        return self
    def double(self): return self.apply(lambda m: m.double())
    def to(self, device): return self.apply(lambda m: m.to(device))
    def train(self): return self.apply(lambda m: m.train())
    def eval(self): return self.apply(lambda m: m.eval())

    def keep_skip(self, i):
        "Does step i take new skips?"
        return self.skip == 'last' or (i < self.n_past if self.skip == 'legacy' else i <= self.n_past)

    def cond(self, h, actions, i):
        "The last code, with the action behind it."
        if self.actions == 'none': return h
        return torch.cat([h, self.act_embed(actions[i-1]) if self.actions == 'learned' else actions[i-1]], 1)

    def losses(self, x, actions=None, eps=None):
        "Steps 1 and 2 of a training step: `mse` and `kld`, sums over the steps; the predictions are kept in `self.preds`."
        B, mse, kld = x[0].shape[0], 0., 0.
        for m in self.recurrent: m.init_hidden(B)
        self.preds = []
        if self.kind == 'fixed': seq = [self.encoder(frame) for frame in x] # the script with the fixed prior encodes every frame once
        for i in range(1, len(x)):
            h, s = seq[i-1] if self.kind == 'fixed' else self.encoder(x[i-1])
            if self.keep_skip(i): skip = s
            h_cond = self.cond(h, actions, i)
            if self.kind != 'none':
                h_target = seq[i][0] if self.kind == 'fixed' else self.encoder(x[i])[0]
                z, mu, logvar = self.posterior(h_target, None if eps is None else eps[i-1])
            if self.kind == 'learned':
                _, mu_p, logvar_p = self.prior(h_cond)
                kld = kld + kl_gauss(mu, logvar, mu_p, logvar_p, B)
            elif self.kind == 'fixed': kld = kld + kl_unit(mu, logvar, B)
            pred = self.decoder([self.frame_predictor(h_cond if self.kind == 'none' else torch.cat([h_cond, z], 1)), skip])
            self.preds.append(pred)
            mse = mse + F.mse_loss(pred, x[i])
        return mse, kld

    def train_step(self, x, actions=None, eps=None):
        "A whole training step; returns the loss, the sum of the errors and the sum of the divergences."
        for m in self.modules.values(): m.zero_grad()
        mse, kld = self.losses(x, actions, eps)
        loss = mse + kld*self.beta
        loss.backward()
        for opt in self.optimizers.values(): opt.step()
        return loss, mse, kld

    @torch.no_grad()
    def sample(self, x, n_eval, actions=None, eps=None, mean_context=False, latents=None):
        """One sample of `n_eval` frames, the context included: posterior on the context, prior afterwards, predictions fed back.

        Returns the frames and the prior's mu and logvar per step. `latents`, (T-1, B, Z), are used instead of what would be drawn.
        """
        B = x[0].shape[0]
        for m in self.recurrent: m.init_hidden(B)
        frames, priors, x_in = [x[0]], [], x[0]
        for i in range(1, n_eval):
            h, s = self.encoder(x_in)
            if self.keep_skip(i): skip = s
            h_cond, e = self.cond(h, actions, i), None if eps is None else eps[i-1]
            if self.kind == 'learned': z_prior, mu_p, logvar_p = self.prior(h_cond, e); priors.append((mu_p, logvar_p))
            if i < self.n_past:
                if self.kind != 'none':
                    z, mu, _ = self.posterior(self.encoder(x[i])[0], e)
                    if mean_context: z = mu
                    if latents is not None: z = latents[i-1]
                self.frame_predictor(h_cond if self.kind == 'none' else torch.cat([h_cond, z], 1))
                x_in = x[i]
            else:
                if self.kind == 'learned': z = z_prior
                if self.kind == 'fixed': z = torch.randn(B, self.posterior.mu_net.out_features).to(h) if e is None else e
                if latents is not None: z = latents[i-1]
                x_in = self.decoder([self.frame_predictor(h_cond if self.kind == 'none' else torch.cat([h_cond, z], 1)), skip])
            frames.append(x_in)
        return frames, priors

    def checkpoint(self, opt, pickled=False):
        "What the originals saved: modules or their states, and the options."
        return {k: m if pickled else m.state_dict() for k, m in self.modules.items()} | dict(opt=opt)


def moving_digits(digits, n_frames, n_digits=2, rng=None):
    "One sequence of bouncing digits, digit by digit and frame by frame: (T, 64, 64, 1) floats. `digits` are 32x32 floats."
    import numpy as np
    rng = rng or np.random
    x = np.zeros((n_frames, 64, 64, 1), np.float32)
    for _ in range(n_digits):
        digit = digits[rng.randint(len(digits))]
        sx, sy, dx, dy = rng.randint(32), rng.randint(32), rng.randint(-4, 5), rng.randint(-4, 5)
        for t in range(n_frames):
            if sy < 0: sy, dy, dx = 0, rng.randint(1, 5), rng.randint(-4, 5)
            elif sy >= 32: sy, dy, dx = 31, rng.randint(-4, 0), rng.randint(-4, 5)
            if sx < 0: sx, dx, dy = 0, rng.randint(1, 5), rng.randint(-4, 5)
            elif sx >= 32: sx, dx, dy = 31, rng.randint(-4, 0), rng.randint(-4, 5)
            x[t, sy:sy+32, sx:sx+32, 0] += digit
            sy, sx = sy+dy, sx+dx
    x[x > 1] = 1.
    return x
