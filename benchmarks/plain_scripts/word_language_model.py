"""Stands in for the word language model of the PyTorch examples: detached hidden states, clipping, plain SGD by hand."""

import argparse
import math
import time
import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="LSTM")
parser.add_argument("--lr", type=float, default=5)
parser.add_argument("--clip", type=float, default=0.25)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--bptt", type=int, default=10)
parser.add_argument("--optimizer", action="store_true", help="torch.optim in place of the update by hand")
args = parser.parse_args()
torch.manual_seed(1111)
NTOKENS = 30


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid, nlayers, dropout=0.2, tie_weights=True):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
        self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers

    def forward(self, input, hidden):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return (weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid))


class TransformerModel(nn.Transformer):
    def __init__(self, ntoken, ninp, nhead, nhid, nlayers, dropout=0.2):
        super().__init__(
            d_model=ninp, nhead=nhead, dim_feedforward=nhid, num_encoder_layers=nlayers, num_decoder_layers=1
        )
        self.input_emb = nn.Embedding(ntoken, ninp)
        self.decoder = nn.Linear(ninp, ntoken)
        self.ninp = ninp

    def forward(self, src):
        mask = torch.log(torch.tril(torch.ones(len(src), len(src))))
        output = self.encoder(self.input_emb(src) * math.sqrt(self.ninp), mask=mask)
        return F.log_softmax(self.decoder(output), dim=-1)


def repackage_hidden(h):
    return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage_hidden(v) for v in h)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).t().contiguous()


def get_batch(source, i):
    seq_len = min(args.bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].view(-1)


corpus = (torch.arange(4000) * 7 + torch.randint(2, (4000,))) % NTOKENS
train_data, val_data = batchify(corpus[:3200], 8), batchify(corpus[3200:], 8)
model = TransformerModel(NTOKENS, 16, 2, 32, 1) if args.model == "Transformer" else RNNModel(NTOKENS, 16, 16, 2)
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr) if args.optimizer else None


def evaluate(data_source):
    model.eval()
    total_loss = 0.0
    hidden = None if args.model == "Transformer" else model.init_hidden(8)
    with torch.no_grad():
        for i in range(0, data_source.size(0) - 1, args.bptt):
            data, targets = get_batch(data_source, i)
            if args.model == "Transformer":
                output = model(data).view(-1, NTOKENS)
            else:
                output, hidden = model(data, hidden)
                hidden = repackage_hidden(hidden)
            total_loss += len(data) * criterion(output, targets).item()
    return total_loss / (len(data_source) - 1)


def train():
    model.train()
    total_loss = 0.0
    hidden = None if args.model == "Transformer" else model.init_hidden(8)
    for batch, i in enumerate(range(0, train_data.size(0) - 1, args.bptt)):
        data, targets = get_batch(train_data, i)
        model.zero_grad()
        if args.model == "Transformer":
            output = model(data).view(-1, NTOKENS)
        else:
            hidden = repackage_hidden(hidden)
            output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        if optimizer is not None:
            optimizer.step()
        else:
            for p in model.parameters():
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-args.lr)
        total_loss += loss.item()
    return total_loss / (batch + 1)


try:
    for epoch in range(1, args.epochs + 1):
        start = time.time()
        print(
            "| epoch {} | loss {:5.2f}".format(epoch, train()),
            "| valid ppl {:8.2f}".format(math.exp(evaluate(val_data))),
        )
except KeyboardInterrupt:
    print("Exiting from training early")
