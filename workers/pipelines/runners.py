"""Every kind of job and the function that runs a batch of it."""

from workers.pipelines.txt2img import txt2img

RUNNERS = {"txt2img": txt2img}
