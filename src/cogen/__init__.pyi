from .inference.run import Run as Run
from .inference.short_form import infer as infer
from .models import views as views
from .models.cogenerator import CoGenerator as CoGenerator
from .models.storage.generators import load_generator as load_generator
from .models.storage.generators import save_generator as save_generator
from .stored_run import load_run as load_run

__version__: str
