# The course as a server for one learner, or as the image of a JupyterHub's users. ELSEWHERE.md says how to run it for a
# class, and that no engine was at hand to build it with.
FROM python:3.12-slim-bookworm

RUN useradd --create-home --home-dir /srv/learner --uid 1000 learner

WORKDIR /opt/lora-lab
COPY . .
# Files keep the rights that they had where the image was built, and the learner is not root.
RUN chmod -R a+rX .
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python setup_here.py --exact

# For a JupyterHub: docker build --build-arg JUPYTERHUB=5.4.6, the version that the hub has.
ARG JUPYTERHUB=""
RUN test -z "$JUPYTERHUB" || pip install "jupyterhub==$JUPYTERHUB"

# One thread each: thirty trainings on one machine would otherwise take every core thirty times.
ENV OMP_NUM_THREADS=1 JUPYTER_PORT=8888
USER 1000
WORKDIR /srv/learner
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["sh", "-c", \
    "python -c \"import urllib.request as web; web.urlopen('http://127.0.0.1:$JUPYTER_PORT${JUPYTERHUB_SERVICE_PREFIX:-/}api')\""]
# The lessons are copied into the home, which may be a volume; what is there already stays. JUPYTER_TOKEN sets the token.
CMD ["sh", "-c", "cp -rn /opt/lora-lab/notebooks . ; exec jupyter lab --ip=0.0.0.0 --no-browser --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"]
