-- Which of these rejects are recorded already.
SELECT digest FROM viewer.rejected WHERE digest = ANY(%(digests)s)
