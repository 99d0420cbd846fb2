from importlib.util import find_spec

if not find_spec("lora_lab"):  # as on Colab: fetch the course, then install what is missing of what it needs
    import os, re, runpy, urllib.request  # noqa: E401, I001

    COURSE = ""  # the web address of its repository, for a notebook that was not opened from there
    if colab := os.environ.get("COLAB_JUPYTER_IP"):  # Colab knows where it has this notebook from
        opened = urllib.request.urlopen(f"http://{colab}:9000/api/sessions").read().decode()
        COURSE = COURSE or re.search(r"https://github\.com/[\w.-]+/[\w.-]+|$", urllib.parse.unquote(opened))[0]
    folder = ".." if os.path.exists("../setup_here.py") else "lora-course"
    cloned = os.path.exists(folder) or not os.system(f"git clone -q --depth 1 {COURSE} {folder}")
    assert cloned, "The course is not here: write the web address of its repository between the quotes of COURSE."
    runpy.run_path(f"{folder}/setup_here.py", run_name="lesson")
