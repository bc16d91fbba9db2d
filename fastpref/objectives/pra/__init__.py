"""PRA, preference-reward approximation: losses on labelled preferences; at the minimum the policy's preferences are the labels'.

``margin`` pairs through their margin alone; ``pairs`` other pairs; ``vocabulary`` pairs with a term over the vocabulary;
``unpaired`` and ``batch_coupled`` losses that look at the whole batch; ``kwise`` several responses to one prompt.
"""
