"""The behaviour cloning of the original, written from its description: slow references, and the other side of the benchmark.

Every sample of a batch is looked up by its own number, and the memory of the policy runs in a loop over steps.
Only the two mistakes with the memory are left out: nothing is carried over between windows, and the memory is emptied
before the first observation of an episode, not before its last one."""
import numpy as np, torch


def legacy_starts(n_rows, window, shift, order):
    "First rows of the windows of one epoch, `ceil(n_rows/window)` of them, all moved by the same number of rows."
    starts = [(w*window + shift) % n_rows for w in range(-(-n_rows//window))]
    return [starts[i] for i in order]


def assemble(arrays, starts, window):
    "One batch, row by row: each array as `(window, B, ...)`; rows count modulo the number of rows."
    n_rows, out = len(arrays[0]), []
    for array in arrays:
        steps = []
        for t in range(window): steps.append(np.stack([array[(start + t) % n_rows] for start in starts]))
        out.append(torch.from_numpy(np.stack(steps)))
    return out


def step_loop(policy, x, fresh):
    "Run a policy over `(T, B, D)` one step at a time; `fresh` `(T, B)` says where an episode begins. Gives `(T, B, A)`."
    state, out = policy.initial(x.shape[1]), []
    for t in range(len(x)):
        if state is not None: keep = (~fresh[t]).float()[None, :, None]; state = tuple(s*keep for s in state)
        step = policy(x[t][:, None], state); state = step.state; out.append(step.pred[:, 0])
    return torch.stack(out)


def stacked(frames, starts, k, mode):
    "Frame stack of every row, by a queue that is filled with the first frame when an episode begins."
    out, queue = [], None
    for t, frame in enumerate(np.asarray(frames, np.float32)):
        queue = [frame]*k if t in set(int(s) for s in starts) else queue[1:] + [frame]
        parts = queue if mode=='cat' else [b - a for a, b in zip(queue[:-1], queue[1:])][-(k - 1):]*(k>1) + [queue[-1]]
        out.append(np.concatenate([np.ravel(p) for p in parts]))
    return np.stack(out)


def embed_trajectory(net, inputs, obs):
    "Features of one trajectory `(T, H, W, 3m)` in one batch: all pictures of a step, also a goal that never changes; gradients are kept. Gives `(T, m*D)`."
    T, m = len(obs), obs.shape[-1]//3
    x = torch.from_numpy(np.concatenate(np.split(obs, m, -1))).permute(0, 3, 1, 2)
    z = net(inputs(x).contiguous())
    return torch.cat(z.split(T), 1).detach().numpy()


def clone_step(policy, opt, x, actions, fresh, clip=40., fused=False):
    """One training step on a batch `(T, B, ...)`: the memory runs step by step and is emptied where an episode begins. Gives the loss.
    `fused` calls the memory once for all steps, which is the same as long as no episode begins inside of a window."""
    z = policy.body(policy.normed(x.flatten(0, 1).float())).view(*x.shape[:2], -1)
    if policy.memory is not None and fused: z = policy.memory(z.transpose(0, 1))[0].transpose(0, 1)
    elif policy.memory is not None:
        state, out = policy.initial(x.shape[1]), []
        for t in range(len(x)):
            keep = (~fresh[t]).float()[None, :, None]
            h, state = policy.memory(z[t][:, None], tuple(s*keep for s in state)); out.append(h[:, 0])
        z = torch.stack(out)
    pred = policy.head(z).flatten(0, 1); actions = actions.flatten(0, 1)
    if policy.spec.discrete: loss = torch.nn.functional.cross_entropy(pred, actions)
    else:
        if policy.spec.squashed: pred = pred.tanh()*policy.high
        loss = -torch.distributions.Normal(pred, policy.log_std.clamp(min=policy.min_log_std).exp()).log_prob(actions).sum(-1).mean()
    opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(policy.parameters(), clip); opt.step()
    return float(loss.detach())
