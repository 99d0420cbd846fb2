"""What a training step takes on a real card, predicted from shapes and data sheets: standard library only.

cards      a card in three numbers, with the source of each
roofline   the least time of each part of a step: computing, or moving its bytes, whichever takes longer
cost       tokens per second, money per million tokens, what fits, what several cards say to one another
beside     what was predicted beside what was recorded

Nothing here is measured; what was, where it was, is in `recorded`.
"""
