"""What `ablation.py` races and the package does not have: ways to train, and a part of a model.
Each is a class that changes one thing of what it inherits from."""
import torch
from torch import nn
from torch.nn import functional as F
from dataclasses import replace
from slm_scratch import LanguageModelTrainer, SmallLanguageModel
from slm_scratch.engine.optim import Muon, make_optimizers

# ---- trainers ----

class Averaging(LanguageModelTrainer):
    "Ends with the mean of the weights of its last tenth"
    total, count = None, 0

    def train_step(self):
        result, p = super().train_step(), self.progress
        if p.step > .9*p.planned_steps:
            weights = [w.detach() for w in self.model.parameters()]
            if self.total is None: self.total = [w.clone() for w in weights]
            else: torch._foreach_add_(self.total, weights)
            self.count += 1
            if p.done:
                for w, total in zip(weights, self.total): w.copy_(total/self.count)
        return result

class Growing(LanguageModelTrainer):
    "Half of the batch size in the first half of the steps"
    def set_up(self, data_path):
        super().set_up(data_path)
        self.resize(self.config.batch_size//2)

    def resize(self, batch_size):
        p, T = self.progress, self.progress.block_size
        old, p.step_windows = p.step_windows, batch_size
        p.carry_over(old, T, p.epoch_windows)
        self.config = replace(self.config, batch_size=batch_size)

    def train_step(self):
        p = self.progress
        if p.step == p.planned_steps//2: self.resize(2*self.config.batch_size)
        return super().train_step()

# ---- optimizers ----

class CautiousMuon(Muon):
    "Decays a number only where the step, too, brings it nearer to zero (Chen et al., 2025)"
    def apply_update(self, p, u, group):
        decay = group['lr']*group['weight_decay']
        p.sub_(decay*p*(p*u > 0))
        super().apply_update(p, u, group | dict(weight_decay=0.))

class RowScaledMuon(Muon):
    "Rows of a step that are long on average are shortened, short ones lengthened (NorMuon, 2025)"
    def apply_update(self, p, u, group):
        state, square = self.state[p], u.square().mean(1, keepdim=True)
        v = state.setdefault('rows', square.clone()).lerp_(square, .05)
        scaled = u/(v.sqrt() + 1e-8)
        super().apply_update(p, scaled*(u.norm()/scaled.norm()), group)

class WarmMuon(Muon):
    "Its momentum rises from 0.85 to 0.95 in the first 300 steps"
    count = 0

    def step(self):
        for group in self.param_groups: group['momentum'] = .85 + .1*min(1, self.count/300)
        self.count += 1
        return super().step()

def with_muon(muon):
    "A trainer with another Muon"
    class Trainer(LanguageModelTrainer):
        def set_up(self, data_path):
            super().set_up(data_path)
            c = self.config
            self.optimizers = make_optimizers(self.model, c.optimizer, c.learning_rate,
                                              c.weight_decay, c.beta2, c.momentum, muon)
    return Trainer

# ---- a part ----

class TokenPairs(SmallLanguageModel):
    "Beside its token, each position gets a vector of the last two tokens, from a hashed table"
    SIZE = 2**14

    def __init__(self, config, tokenizer=None):
        super().__init__(config, tokenizer)
        self.pairs = nn.Embedding(self.SIZE, config.d_model)
        nn.init.zeros_(self.pairs.weight)

    def embed(self, ids, positions):
        before = F.pad(ids[:, :-1], (1, 0))
        return super().embed(ids, positions) + self.pairs((before*36313 + ids*27191) % self.SIZE)
