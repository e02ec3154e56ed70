"""Networks on tokens, sets and rows of features: ViT, MLP-Mixer, DeepSets, an interaction network, PointNet, a siamese network, a policy, FracBNN."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Several heads by hand, as timm writes them."""

    def __init__(self, dim: int, num_heads: int = 2, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        attn = attn.softmax(dim=-1)
        attn = self.attn_drop(attn)
        x = attn @ v
        x = x.transpose(1, 2).reshape(B, N, C)
        x = self.proj(x)
        return self.proj_drop(x)


class Mlp(nn.Module):
    def __init__(self, in_features: int, hidden_features: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(x)
        x = self.drop1(x)
        x = self.fc2(x)
        return self.drop2(x)


class Block(nn.Module):
    """Attention by hand, or torch's module."""

    def __init__(self, dim: int, num_heads: int, written: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn: nn.Module = Attention(dim, num_heads) if written else nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.attn, nn.MultiheadAttention):
            y = self.norm1(x)
            y, _ = self.attn(y, y, y, need_weights=False)
            x = x + y
        else:
            x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        assert height == self.img_size[0], f"the height {height} doesn't match the model ({self.img_size[0]})"
        assert width == self.img_size[1], f"the width {width} doesn't match the model ({self.img_size[1]})"
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021: a class token, learned positions."""

    def __init__(self, written: bool, img_size: int = 8, embed_dim: int = 8, depth: int = 1, num_heads: int = 2, num_classes: int = 4) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, 4, 1, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, self.patch_embed.num_patches + 1, embed_dim) * 0.5)
        self.pos_drop = nn.Dropout(p=0.0)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, written) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.normal_(self.cls_token, std=0.5)

    def _pos_embed(self, x: Tensor) -> Tensor:
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.pos_drop(x + self.pos_embed)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = self._pos_embed(x)
        x = self.blocks(x)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)
        return self.head(x[:, 0])


class MixerBlock(nn.Module):
    def __init__(self, dim: int, seq_len: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens = Mlp(seq_len, 6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_channels = Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class MlpMixer(nn.Module):
    """Tolstikhin et al. 2021."""

    def __init__(self, dim: int = 6, num_classes: int = 4) -> None:
        super().__init__()
        self.stem = PatchEmbed(8, 4, 3, dim)
        self.blocks = nn.Sequential(MixerBlock(dim, self.stem.num_patches))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.blocks(x)
        x = self.norm(x)
        x = x.mean(dim=1)
        return self.head(x)


class DeepSets(nn.Module):
    """Zaheer et al. 2017: phi of each element, their sum, rho; the layers between are equivariant by their maximum taken off."""

    def __init__(self, x_dim: int = 3, d_dim: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(x_dim, d_dim), nn.ELU(inplace=True))
        self.gamma = nn.Linear(d_dim, d_dim)
        self.lambd = nn.Linear(d_dim, d_dim, bias=False)
        self.rho = nn.Sequential(nn.Dropout(p=0.5), nn.Linear(d_dim, d_dim), nn.ELU(inplace=True), nn.Linear(d_dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.phi(x)
        xm, _ = x.max(1, keepdim=True)
        xm = self.lambd(xm)
        x = self.gamma(x)
        x = F.elu(x - xm)
        return self.rho(x.sum(1))


class InteractionNetwork(nn.Module):
    """Battaglia et al. 2016 on jets (JEDI-net): all pairs of particles by constant incidence matrices."""

    def __init__(self, n_constituents: int = 4, params: int = 3, hidden: int = 5, effects: int = 3, targets: int = 4) -> None:
        super().__init__()
        self.P, self.N = params, n_constituents
        self.Nr = self.N * (self.N - 1)
        self.assign_matrices()
        self.fr1, self.fr2 = nn.Linear(2 * self.P, hidden), nn.Linear(hidden, effects)
        self.fo1, self.fo2 = nn.Linear(self.P + effects, hidden), nn.Linear(hidden, effects)
        self.fc_fixed = nn.Linear(effects, targets)

    def assign_matrices(self) -> None:
        receiving, sending = torch.zeros(self.N, self.Nr), torch.zeros(self.N, self.Nr)
        pairs = [i for i in ((a, b) for a in range(self.N) for b in range(self.N)) if i[0] != i[1]]
        for i, (r, s) in enumerate(pairs):
            receiving[r, i] = 1
            sending[s, i] = 1
        self.register_buffer("Rr", receiving)
        self.register_buffer("Rs", sending)

    def forward(self, x: Tensor) -> Tensor:
        Orr = torch.matmul(x, self.Rr)
        Ors = torch.einsum("bpn,nr->bpr", x, self.Rs)
        B = torch.cat([Orr, Ors], 1)
        B = torch.transpose(B, 1, 2).contiguous()
        B = F.relu(self.fr1(B))
        E = F.relu(self.fr2(B))
        E = torch.transpose(E, 1, 2).contiguous()
        Ebar = torch.einsum("ber,nr->ben", E, self.Rr)
        C = torch.cat([x, Ebar], 1)
        C = torch.transpose(C, 1, 2).contiguous()
        C = F.relu(self.fo1(C))
        O = F.relu(self.fo2(C))  # noqa: E741
        return self.fc_fixed(torch.sum(O, dim=1))


class TNet(nn.Module):
    """A k x k transformation of the points, learned as the identity plus something."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.conv1 = nn.Conv1d(k, 4, 1)
        self.conv2 = nn.Conv1d(4, 6, 1)
        self.fc1 = nn.Linear(6, 5)
        self.fc2 = nn.Linear(5, k * k)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(4), nn.BatchNorm1d(6), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        batchsize = x.size()[0]
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 6)
        x = F.relu(self.bn3(self.fc1(x)))
        x = self.fc2(x)
        iden = torch.eye(self.k).flatten().view(1, self.k * self.k).repeat(batchsize, 1)
        if x.is_cuda:
            iden = iden.cuda()
        x = x + iden
        return x.view(-1, self.k, self.k)


class PointNet(nn.Module):
    """Qi et al. 2017: classes by log-softmax, and the transformation for its regularizer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stn = TNet(3)
        self.conv1 = nn.Conv1d(3, 5, 1)
        self.bn1 = nn.BatchNorm1d(5)
        self.conv2 = nn.Conv1d(5, 8, 1)
        self.bn2 = nn.BatchNorm1d(8)
        self.fc1 = nn.Linear(8, 6)
        self.dropout = nn.Dropout(p=0.3)
        self.fc2 = nn.Linear(6, classes)
        self.bn3 = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        trans = self.stn(x)
        x = x.transpose(2, 1)
        x = torch.bmm(x, trans)
        x = x.transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 8)
        x = F.relu(self.bn3(self.dropout(self.fc1(x))))
        x = self.fc2(x)
        return F.log_softmax(x, dim=1), trans


class SiameseNetwork(nn.Module):
    """Koch et al. 2015: one network on two images, a distance number by number, one score. ``norm``: with BatchNorm, as many write it."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.cnn1 = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(1, 4, kernel_size=3), nn.ReLU(inplace=True), *([nn.BatchNorm2d(4)] if norm else []), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, kernel_size=3), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.fc1 = nn.Sequential(nn.Linear(4 * 2 * 2, 6), nn.Sigmoid())
        self.fcOut = nn.Linear(6, 1)

    def forward_once(self, x: Tensor) -> Tensor:
        output = self.cnn1(x)
        output = output.view(output.size()[0], -1)
        return self.fc1(output)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        output1 = self.forward_once(input1)
        output2 = self.forward_once(input2)
        output = torch.abs(output1 - output2)
        return self.fcOut(output)


class ActorCritic(nn.Module):
    """A policy: the mean of the action within (-1, 1), and the value of the state."""

    def __init__(self, state_dim: int = 6, action_dim: int = 2, hidden: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(state_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.actor = nn.Linear(hidden, action_dim)
        self.critic = nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.zeros(1, action_dim))
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.orthogonal_(m.weight, gain=1.2)
                nn.init.constant_(m.bias, 0.1)

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        features = self.body(state)
        return {"action": torch.tanh(self.actor(features)), "value": self.critic(features)}


class Binary(torch.autograd.Function):
    """The sign forward, the gradient within [-1, 1] backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class LearnableBias(nn.Module):
    def __init__(self, out_chn: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.1 * torch.randn(1, out_chn, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.expand_as(x)


class RPReLU(nn.Module):
    """A shift for each channel, PReLU, another shift."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.pr_bias0 = LearnableBias(planes)
        self.pr_prelu = nn.PReLU(planes)
        self.pr_bias1 = LearnableBias(planes)

    def forward(self, x: Tensor) -> Tensor:
        return self.pr_bias1(self.pr_prelu(self.pr_bias0(x)))


class BinaryConv2d(nn.Conv2d):
    """Signs of the weights, times their mean absolute value for each output; straight through within [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        real = self.weight
        scale = torch.mean(torch.mean(torch.mean(abs(real), dim=3, keepdim=True), dim=2, keepdim=True), dim=1, keepdim=True).detach()
        signs = scale * torch.sign(real)
        clipped = torch.clamp(real, -1.0, 1.0)
        weights = signs.detach() - clipped.detach() + clipped
        return F.conv2d(x, weights, stride=self.stride, padding=self.padding)


class FracBlock(nn.Module):
    """A block of FracBNN (Zhang et al. 2021): sign, a binary convolution, BatchNorm, a shortcut and RPReLU, twice."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.move1, self.move2 = LearnableBias(planes), LearnableBias(planes)
        self.conv1, self.conv2 = (BinaryConv2d(planes, planes, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.act1, self.act2 = RPReLU(planes), RPReLU(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(torch.sign(self.move1(x)))) + x)
        return self.act2(self.bn2(self.conv2(torch.sign(self.move2(out)))) + out)


class FracBNN(nn.Module):
    def __init__(self, planes: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.block = FracBlock(planes)
        self.linear = nn.Linear(planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))
