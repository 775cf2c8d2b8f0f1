"""APL: alternative pseudo-labelling for CTC speech recognition.

A CTC model is trained on a little transcribed audio and much audio without transcripts. A teacher
(the moving average of the student) labels the latter; tokens in which it has little confidence
are flagged, and the generalized CTC loss accepts any token there instead of teaching the error.
Four parts: the loss, error detection by confidence, a contrastive loss that makes confidence
more telling, and a threshold found on labelled audio.

Source: Zhu, Gao, Cheng, Povey, Zhang, Yan, "Alternative Pseudo-Labeling for Semi-Supervised
Automatic Speech Recognition", IEEE/ACM TASLP 2023, arXiv 2308.06547.
"""
