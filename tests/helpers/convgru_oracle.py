"""ConvGRU2D in float64 NumPy: one time step, one gate, one offset at a time.

Written from [Shi et al. 2017] Eq. 1 and the definition of
`keras.layers.GRU`, forwards and backwards, for reading, not for speed: no
shared code with the library. Channels last. What a MEmeL does to the candidate
states is asked of `oracle.Oracle`.
"""

import math

import numpy as np

# Each activation, and its derivative by its value.
ACTIVATIONS = {
    "tanh": (np.tanh, lambda y: 1 - y * y),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
    "leaky_relu": (
        lambda x: np.where(x > 0, x, 0.2 * x),
        lambda y: np.where(y > 0, 1.0, 0.2),
    ),
    "linear": (lambda x: x, lambda y: np.ones_like(y)),
}


def windows(size, kernel, stride, dilation, padding):
    """Length of the output, and zeros before and after the input."""
    reach = (kernel - 1) * dilation + 1
    if padding == "valid":
        return (size - reach) // stride + 1, (0, 0)
    length = math.ceil(size / stride)
    zeros = max((length - 1) * stride + reach - size, 0)
    return length, (zeros // 2, zeros - zeros // 2)


class Conv:
    """A convolution, and its derivatives."""

    def __init__(self, strides=(1, 1), padding="same", dilation=(1, 1)):
        self.strides, self.padding = strides, padding
        self.dilation = dilation

    def _places(self, x, w):
        """Padded input, output size, and where each kernel entry looks."""
        pairs = [
            windows(
                x.shape[1 + i],
                w.shape[i],
                self.strides[i],
                self.dilation[i],
                self.padding,
            )
            for i in (0, 1)
        ]
        size = tuple(length for length, _ in pairs)
        padded = np.pad(x, ((0, 0), pairs[0][1], pairs[1][1], (0, 0)))
        places = []
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                rows, columns = (
                    slice(
                        at * self.dilation[k],
                        at * self.dilation[k]
                        + (size[k] - 1) * self.strides[k]
                        + 1,
                        self.strides[k],
                    )
                    for k, at in ((0, i), (1, j))
                )
                places.append((i, j, (slice(None), rows, columns)))
        begin = (pairs[0][1][0], pairs[1][1][0])
        return padded, size, places, begin

    def __call__(self, x, w):
        padded, size, places, _ = self._places(x, w)
        y = np.zeros((len(x), *size, w.shape[-1]))
        for i, j, where in places:
            y += padded[where] @ w[i, j]
        return y

    def backward(self, x, w, dy):
        padded, _, places, begin = self._places(x, w)
        dpadded, dw = np.zeros_like(padded), np.zeros(w.shape)
        for i, j, where in places:
            dpadded[where] += dy @ w[i, j].T
            dw[i, j] = np.einsum("bhwi,bhwo->io", padded[where], dy)
        rows, columns = x.shape[1:3]
        dx = dpadded[
            :, begin[0] : begin[0] + rows, begin[1] : begin[1] + columns
        ]
        return dx, dw


class ConvGRU:
    """Weights as in the layer; outputs and gradients of one call."""

    def __init__(
        self,
        kernel,
        recurrent_kernel,
        bias=None,
        strides=(1, 1),
        padding="valid",
        dilation_rate=(1, 1),
        activation="tanh",
        recurrent_activation="sigmoid",
        reset_after=True,
        go_backwards=False,
    ):
        self.kernel = np.asarray(kernel, "float64")
        self.recurrent_kernel = np.asarray(recurrent_kernel, "float64")
        width = self.kernel.shape[-1]
        self.filters = width // 3
        self.has_bias = bias is not None
        self.bias = np.zeros((2, width))
        if self.has_bias:
            bias = np.asarray(bias, "float64")
            assert bias.shape == ((2, width) if reset_after else (width,))
            self.bias[: 2 if reset_after else 1] = bias
        self.conv = Conv(strides, padding, dilation_rate)
        self.recurrent_conv = Conv()
        self.act, self.act_slope = ACTIVATIONS[activation]
        self.gate, self.gate_slope = ACTIVATIONS[recurrent_activation]
        self.reset_after, self.go_backwards = reset_after, go_backwards

    def _of_gate(self, array, g):
        return array[..., g * self.filters : (g + 1) * self.filters]

    def forward(
        self, x, state=None, mask=None, dropped=None, inhibit=None, uses=None
    ):
        """All states, `(batch, time, ...)`, in the order of the steps.

        Args:
            x: Frames, `(batch, time, rows, columns, channels)`.
            state: The first state; zeros if `None`.
            mask: `(batch, time)`, true where a frame counts.
            dropped: What each gate's inputs and states are multiplied with:
                three arrays for the inputs, three for the states.
            inhibit: From candidates and the validity of the samples to what
                is used of them, and to a function from the gradient by the
                latter to that by the former.
        """
        x = np.asarray(x, "float64")
        batch, time = x.shape[:2]
        order = range(time)[::-1] if self.go_backwards else range(time)
        h = None if state is None else np.asarray(state, "float64")
        self.tape, found = [], []
        dropped = dropped or ([1.0] * 3, [1.0] * 3)
        for t in order:
            valid = np.ones(batch, bool) if mask is None else mask[:, t]
            frame = x[:, t]
            a = [
                self.conv(frame * dropped[0][g], self._of_gate(self.kernel, g))
                + self._of_gate(self.bias[0], g)
                for g in range(3)
            ]
            if h is None:
                h = np.zeros(a[0].shape)
            seen = [h * dropped[1][g] for g in range(3)]
            gates = []
            for g in (0, 1):
                s = self.recurrent_conv(
                    seen[g], self._of_gate(self.recurrent_kernel, g)
                ) + self._of_gate(self.bias[1], g)
                gates.append(self.gate(a[g] + s))
            z, r = gates
            last = self._of_gate(self.recurrent_kernel, 2)
            if self.reset_after:
                q = self.recurrent_conv(seen[2], last)
                q += self._of_gate(self.bias[1], 2)
                c = self.act(a[2] + r * q)
            else:
                q = self.recurrent_conv(r * seen[2], last)
                c = self.act(a[2] + q)
            used, back = c, lambda d: d
            if inhibit is not None:
                used, back = inhibit(c, valid)
            new = z * h + (1 - z) * used
            keep = valid[:, None, None, None]
            self.tape.append((t, frame, h, seen, z, r, q, c, used, back, keep))
            h = np.where(keep, new, h)
            found.append(h)
        self.dropped = dropped
        return np.stack(found, axis=1)

    def backward(self, dstates, shape):
        """Gradients of `sum(states * dstates)`: inputs, state, weights."""
        dx = np.zeros(shape)
        dkernel = np.zeros(self.kernel.shape)
        drecurrent = np.zeros(self.recurrent_kernel.shape)
        dbias = np.zeros(self.bias.shape)
        dh = np.zeros(self.tape[0][2].shape)
        for step in range(len(self.tape))[::-1]:
            t, x, h, seen, z, r, q, c, used, back, keep = self.tape[step]
            dh = dh + dstates[:, step]
            dnew = dh * keep
            dh = dh * ~keep + dnew * z
            dc = back(dnew * (1 - z))
            da = [dnew * (h - used) * self.gate_slope(z), None, None]
            da[2] = dc * self.act_slope(c)
            last = self._of_gate(self.recurrent_kernel, 2)
            if self.reset_after:
                dr, dq = da[2] * q, da[2] * r
                dseen, dlast = self.recurrent_conv.backward(seen[2], last, dq)
                self._of_gate(dbias[1], 2)[...] += dq.sum((0, 1, 2))
            else:
                dboth, dlast = self.recurrent_conv.backward(
                    r * seen[2], last, da[2]
                )
                dr, dseen = dboth * seen[2], dboth * r
            da[1] = dr * self.gate_slope(r)
            self._of_gate(drecurrent, 2)[...] += dlast
            dh += dseen * self.dropped[1][2]
            for g in (0, 1):
                dseen, dw = self.recurrent_conv.backward(
                    seen[g], self._of_gate(self.recurrent_kernel, g), da[g]
                )
                dh += dseen * self.dropped[1][g]
                self._of_gate(drecurrent, g)[...] += dw
                self._of_gate(dbias[1], g)[...] += da[g].sum((0, 1, 2))
            for g in range(3):
                dseen, dw = self.conv.backward(
                    x * self.dropped[0][g], self._of_gate(self.kernel, g), da[g]
                )
                dx[:, t] += dseen * self.dropped[0][g]
                self._of_gate(dkernel, g)[...] += dw
                self._of_gate(dbias[0], g)[...] += da[g].sum((0, 1, 2))
        weights = [dkernel, drecurrent]
        if self.has_bias:
            weights.append(dbias if self.reset_after else dbias[0])
        return dx, dh, weights


class Candidates:
    """Apply a MEmeL, whose state is in `oracle`, to the candidates.

    `call` runs the network once, and then the oracle's statistics are those
    after the call.
    """

    def __init__(self, network, oracle):
        self.network, self.oracle = network, oracle

    def call(self, x, dstates, mask=None, random_masks=None):
        """States, and the gradient by `x` of their sum with `dstates`."""
        self.seen, self.valid, self.chosen = [], [], []
        self.number, self.random_masks = 0, iter(random_masks or ())
        states = self.network.forward(x, mask=mask, inhibit=self.inhibit)
        values, valid = np.concatenate(self.seen), np.concatenate(self.valid)
        axes, neurons = self.oracle.begin(values.shape)
        ready = (self.oracle.count > 0) & self.late()
        gradient, _, weights = self.network.backward(dstates, x.shape)
        total = self.oracle.update(values, axes, valid)
        batch = self.oracle.batch_count
        eligible = sum(batch[n] for n in np.ndindex(*neurons) if ready[n])
        self.oracle.end(self.number, total, eligible)
        return states, gradient, weights

    def late(self):
        return self.oracle.steps >= self.oracle.late_start

    def inhibit(self, c, valid):
        axes, _ = self.oracle.begin(c.shape)
        everywhere = np.zeros(c.shape, bool)
        for sample, counts in enumerate(valid):
            everywhere[sample] = counts
        self.seen.append(c)
        self.valid.append(everywhere)
        score = self.oracle.score(c, axes, everywhere)
        chosen = self.oracle.select(score, next(self.random_masks, None))
        self.number += chosen.sum()
        self.chosen.append(chosen)
        mean = np.zeros(c.shape)
        for i in np.ndindex(*c.shape):
            mean[i] = self.oracle.mean[tuple(i[a] for a in axes)]
        kind, *argument = self.oracle.inhibition
        if kind == "reverse":
            (delta,) = argument
            return (
                np.where(chosen, mean, c),
                lambda d: np.where(chosen, -delta * d, d),
            )
        if kind == "penalty":
            weight, tiny = argument
            off = np.where(chosen, c - mean, 0.0)
            slope = weight * 2 * off / (off * off + tiny)
            # The number of all that the call selects is known at its end.
            return c, lambda d: d + slope / max(self.number, 1)
        return c, lambda d: d
