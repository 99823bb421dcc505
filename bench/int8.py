"""What int8 costs: perplexity of a trained model on stories that it has not seen, token by token,
in float32 and in int8 with each kernel that this processor has, and the tokens a second of each.

usage: python bench/int8.py TEXT [--model model.pth] [--minutes 2] [--tokens 3000]

TEXT is a file of documents, such as TinyStories; without a model, one is trained on it first.
"""
import argparse, math, os, tempfile, time
from pathlib import Path
import torch
from slm_scratch import LanguageModelTrainer, ModelConfig, SmallLanguageModel, Tokenizer
from slm_scratch.engine.corpus import read_texts
from slm_scratch.engine.fast import FastDecoder
from slm_scratch.engine.int8 import INT8_KERNELS, widened
from slm_scratch.engine.kernels import VARIABLE, machine_key

def train(docs, minutes):
    "A small model of these documents: 4 blocks of width 256, a vocabulary of 4,096"
    tok = Tokenizer.train(docs[:2000], vocab_size=4096)
    sizes = dict(d_model=256, n_heads=4, n_layers=4, max_seq_len=256)
    model = SmallLanguageModel(ModelConfig(vocab_size=tok.vocab_size, **sizes), tok)
    folder = Path(tempfile.mkdtemp())
    (folder/'text.txt').write_text('<|endoftext|>'.join(docs), encoding='utf-8')
    LanguageModelTrainer(model).train(folder/'text.txt', out_dir=folder/'run', max_minutes=minutes,
                                      batch_size=16, block_size=256, optimizer='muon')
    return model.cpu().eval()

@torch.inference_mode()
def nats(model, docs, limit):
    "Sum of −log p over the tokens of the documents, how many there are, and seconds"
    total, count, began = 0., 0, time.perf_counter()
    with widened(model):
        for doc in docs:
            ids = [model.tokenizer.eot, *model.tokenizer.encode(doc)][:model.config.max_seq_len]
            decoder = FastDecoder(model, [ids[:1]], len(ids))
            logits = decoder.prefill()
            for i in ids[1:]:
                total -= logits[0].log_softmax(-1)[i].item()
                count += 1
                logits = decoder.step([i])
            if count >= limit: break
    return total, count, time.perf_counter() - began

def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('text')
    ap.add_argument('--model')
    ap.add_argument('--minutes', type=float, default=2, help='of training, without a model')
    ap.add_argument('--tokens', type=int, default=3000, help='to score')
    a = ap.parse_args()
    docs = [d for _, d in zip(range(4000), read_texts(a.text))]
    held, docs = docs[-200:], docs[:-200]
    model = SmallLanguageModel.load(a.model).eval() if a.model else train(docs, a.minutes)
    print(machine_key())
    print(f'{"weights":16}{"perplexity":>12}{"against float32":>17}{"tokens a second":>17}')
    base, q = None, model.quantize()
    for name in ('float32', *INT8_KERNELS):
        if name != 'float32':
            shapes = {tuple(m.weight.shape) for m in q.modules() if hasattr(m, 'wide')}
            if not all(INT8_KERNELS[name].fits(s, 'cpu') for s in shapes):
                print(f'int8, {name:10} is not to be had for this model on this processor')
                continue
            os.environ[VARIABLE] = f'int8={name}'
        total, count, seconds = nats(model if name == 'float32' else q, held, a.tokens)
        perplexity = math.exp(total/count)
        base = base or perplexity
        label = name if name == 'float32' else f'int8, {name}'
        print(f'{label:16}{perplexity:12.4f}{perplexity/base - 1:+17.3%}{count/seconds:17.0f}')

if __name__ == '__main__': main()
