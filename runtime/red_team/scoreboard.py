"""The scoreboard: every trial, a summary per recipe, and the best the attacker did; what `kdguard attack` writes."""

from __future__ import annotations

from pydantic import BaseModel, Field

from kdguard.runtime.recipes.base import Source
from kdguard.runtime.red_team.landmarks import Landmarks
from kdguard.runtime.red_team.options import TrainingOptions


class Row(BaseModel):
    """One student that counts, or one that was tried for its settings only."""

    recipe: str
    source: Source
    seed: int
    psnr: float
    ssim: float
    diverged: bool = False
    diverged_at: int = Field(0, description="step whose loss was NaN or infinite; the best student before it counts")
    batch: int = Field(0, description="images per step; fewer than asked for where memory ran out")
    learning_rate: float = 0.0
    weight: float = Field(1.0, description="of the feature term")
    validation_db: float | None = Field(None, description="what settings and the moment to stop were chosen by")
    steps: int = 0
    validation_curve: list[tuple[int, float]] = Field(default_factory=list, description="(step, PSNR)")


class Group(BaseModel):
    """One recipe from one source, over the seeds."""

    psnr: float
    ssim: float
    pooled_db: float = Field(0.0, description="PSNR of the error pooled over the test images, mean of the seeds")
    ci95: float | None = Field(description="half width of the 95 % interval of the mean PSNR over seeds; None for one")
    diverged: int = Field(0, description="students whose training ended in NaN or infinity")


class SummaryEntry(BaseModel):
    """One recipe, clean teacher against hardened, paired by seed.

    Controls and key holders (T3) did not learn what a thief of the hardened teacher does: both sides show the same
    students, the drop is 0.
    """

    recipe: str
    tier: str
    clean: Group
    hardened: Group
    drop_db: float = Field(description="clean minus hardened, positive where hardening hurt the student")
    drop_ci95: float | None = Field(description="half width of its 95 % interval, paired by seed")
    ssim_drop_pct: float
    pooled_drop_db: float = Field(0.0, description="as `drop_db`, of errors pooled over the test images")
    bound_db: float | None = Field(
        None, description="largest pooled drop that an output-only student trained to the end can have; T0 only"
    )

    @property
    def compared(self) -> bool:
        """Whether its students of the hardened teacher are others than those of the clean one."""
        return self.tier not in ("control", "T3")

    @property
    def diverged(self) -> int:
        """Students of either side whose training diverged."""
        return self.clean.diverged + self.hardened.diverged


class BestStudent(BaseModel):
    """The best student that any recipe reached, by mean PSNR; `scratch` is open to every attacker."""

    recipe: str
    psnr: float


class BestResponse(BaseModel):
    """What an attacker who picks his recipe gets, among those that ran.

    The recipe is picked by the students' scores on the test images, which is kinder to the attacker than any
    choice he can make himself; the interval is over seeds and does not cover that choice.
    """

    clean: BestStudent
    hardened: BestStudent
    drop_db: float
    drop_ci95: float | None = Field(None, description="half width of its 95 % interval, paired by seed")
    same_students: bool = Field(False, description="both sides are the very same students, so nothing is compared")


class HelpLeft(BaseModel):
    """What the hardened teacher still gives an attacker who owns ground truth."""

    recipe: str = Field(description="the best recipe that uses ground truth and the hardened teacher")
    gain_db: float = Field(description="over `scratch`; at most 0 where the teacher's help is gone")
    gain_ci95: float | None
    clean_gain_db: float | None = Field(None, description="what the clean teacher gives by the same recipe")
    clean_gain_ci95: float | None = None


class NotRun(BaseModel):
    """A recipe that these models give nothing to work with."""

    recipe: str
    tier: str
    reason: str


class Setting(BaseModel):
    """What was attacked, with what; enough to tell two scoreboards apart."""

    kdguard: str = Field(description="version")
    teacher: str = Field(description="file name")
    teacher_sha256: str
    hardened: str = Field(description="file name")
    hardened_sha256: str
    hardened_layers: list[str] = Field(description="layers that kdguard hardened")
    task: str | None
    torch: str = Field("", description="version")
    onnxruntime: str = Field("", description="version")
    owned_sha256: str = Field("", description="of the images that the attacker owns, as loaded")
    test_sha256: str = Field("", description="of the images that score")
    owned_images: int = Field(description="that the attacker trains and validates on")
    tiles: int
    tile_side: int = Field(description="pixels of the degraded image")
    seed: int = Field(description="of the cutting")
    training: TrainingOptions


class Scoreboard(BaseModel):
    """What `kdguard attack` writes; rows, summary and best_response are a contract."""

    best_response: BestResponse | None = Field(description="None where only controls ran, or all of one side diverged")
    help_left: HelpLeft | None = Field(None, description="None without `scratch` or a recipe with ground truth")
    summary: list[SummaryEntry]
    rows: list[Row]
    tried: list[Row] = Field(default_factory=list, description="students trained to choose settings, by validation")
    not_run: list[NotRun] = Field(default_factory=list)
    seeds: int
    steps: int
    student: str
    student_parameters: int
    tap: str | None
    test_images: int
    setting: Setting | None = None
    landmarks: Landmarks | None = Field(None, description="what students are to be compared with")
    notes: list[str] = Field(default_factory=list, description="where the run shows less than its figures seem to")

    def entry(self, recipe: str) -> SummaryEntry:
        """A recipe's line of the summary."""
        return next(entry for entry in self.summary if entry.recipe == recipe)
