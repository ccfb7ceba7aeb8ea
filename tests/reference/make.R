# Makes mixed_<name>.json beside it: simulated frames, and what lme4, lmerTest, pbkrtest and emmeans say of them.
# Run in this folder: Rscript make.R
# Optimisers are made to go on until theta no longer moves, so that the numbers are good to about 1e-8.
suppressPackageStartupMessages({library(lmerTest); library(emmeans); library(jsonlite)})
emm_options(lmer.df = "kenward-roger")
set.seed(20240)

patient <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5),
                       check.conv.singular = "ignore", calc.derivs = FALSE)

table <- function(x) {
  rows <- as.data.frame(x)
  names <- rownames(rows)
  rows <- as.list(unname(rows))
  c(list(term = I(names)), setNames(lapply(rows, I), make.names(colnames(as.data.frame(x)))))
}

columns <- function(frame) lapply(frame, function(col) I(if (is.factor(col)) as.character(col) else col))

# Fai & Cornelius' F of each term's sum-coded coefficients. anova() takes other contrasts of the same space
# where an interaction is unbalanced: F is the same, but their method's df depends on the contrasts (by 0.04 here).
by_term <- function(fit) {
  term <- attr(getME(fit, "X"), "assign")
  tests <- lapply(unique(term[term > 0]), function(i) contestMD(fit, diag(length(term))[term == i, , drop = FALSE]))
  made <- do.call(rbind, tests)
  rownames(made) <- attr(terms(fit), "term.labels")
  table(made)
}

record <- function(name, frame, fixed, random, means = character(0)) {
  for (col in names(frame)) if (is.character(frame[[col]]))
    frame[[col]] <- factor(frame[[col]], levels = unique(frame[[col]]))
  whole <- paste(c(fixed, paste0("(", random, ")")), collapse = " + ")
  fit <- lmer(as.formula(whole), frame, control = patient)
  # A type III test is of sum-coded coefficients.
  summed <- frame
  for (col in names(frame)) if (is.factor(frame[[col]]) && nlevels(frame[[col]]) > 1)
    contrasts(summed[[col]]) <- contr.sum(nlevels(frame[[col]]))
  sum_fit <- lmer(as.formula(whole), summed, control = patient)
  said <- list(
    frame = columns(frame), fixed = unbox(fixed), random = random, singular = unbox(isSingular(fit)),
    criterion = unbox(REMLcrit(fit)), sum_criterion = unbox(REMLcrit(sum_fit)),
    components = columns(as.data.frame(VarCorr(fit))),
    kenward_roger = table(coef(summary(fit, ddf = "Kenward-Roger"))),
    sum_kenward_roger = table(coef(summary(sum_fit, ddf = "Kenward-Roger"))),
    satterthwaite = table(coef(summary(fit, ddf = "Satterthwaite"))),
    anova = table(anova(sum_fit, type = 3, ddf = "Kenward-Roger")),
    satterthwaite_anova = by_term(sum_fit))
  for (term in means) {
    made <- emmeans(fit, as.formula(paste("~", term)))
    said$means[[term]] <- columns(as.data.frame(made))
    said$pairs[[term]] <- columns(as.data.frame(summary(pairs(made), infer = TRUE)))
  }
  write_json(said, paste0("mixed_", name, ".json"), digits = 15, null = "null", na = "null")
  cat(name, isSingular(fit), format(REMLcrit(fit)), "\n")
}

per <- function(key, sd) { key <- factor(key); rnorm(nlevels(key), 0, sd)[key] }
lose <- function(frame, share) frame[sort(sample(nrow(frame), round(nrow(frame) * (1 - share)))), ]

# Subjects and items crossed, a condition that varies within both.
d <- expand.grid(subject = paste0("s", 1:10), item = paste0("i", 1:8), stringsAsFactors = FALSE)
d$condition <- ifelse((as.integer(factor(d$subject)) + as.integer(factor(d$item))) %% 2 == 0, "old", "new")
d$y <- round(500 + 20 * (d$condition == "new") + per(d$subject, 30) + per(d$item, 15) + rnorm(nrow(d), 0, 40), 3)
record("crossed", d, "y ~ condition", c("1 | subject", "1 | item"), "condition")

# Classes within schools, treatment given to schools; schools of different size.
d <- expand.grid(pupil = 1:4, class = paste0("c", 1:3), school = paste0("s", 1:8), stringsAsFactors = FALSE)
d$treatment <- ifelse(d$school %in% paste0("s", c(1, 3, 4, 7)), "reading", "none")
d$y <- round(per(d$school, 2) + per(paste(d$school, d$class), 1.5) + (d$treatment == "reading") + rnorm(nrow(d)), 6)
record("nested", lose(d, 0.25)[c("school", "class", "treatment", "y")], "y ~ treatment", "1 | school/class")

# The package's own design with 15 % of the cells lost.
d <- expand.grid(mode = c("isolated", "visible"), seed = c("s42", "s123", "s456", "s789", "s999"),
                 prompt = paste0("p", 0:9), stringsAsFactors = FALSE)
d$category <- rep(c("narrative", "factual", "technical", "dialogue", "descriptive"), each = 20)
pieces <- function(d, p, ps, pm, e)
  round(per(d$prompt, p) + per(paste(d$prompt, d$seed), ps) + per(paste(d$prompt, d$mode), pm) +
        rnorm(nrow(d), 0, e) - 0.08 * (d$mode == "visible"), 9)
terms <- c("1 | prompt", "1 | prompt:seed", "1 | prompt:mode")
d$y <- pieces(d, 0.25, 0.10, 0.08, 0.10)
record("missing", lose(d, 0.15), "y ~ category + mode", terms, c("category", "mode"))

# The same with a variance that is estimated as 0.
d$y <- pieces(d, 0.25, 0, 0, 0.10)
record("singular", lose(d, 0.15), "y ~ category + mode", terms, "mode")

# Random slopes, correlated; people measured 4 to 7 times.
d <- expand.grid(time = 0:6, person = paste0("q", 1:14), stringsAsFactors = FALSE)
d$arm <- ifelse(as.integer(factor(d$person)) %% 2 == 0, "drug", "placebo")
who <- factor(d$person)
start <- rnorm(14, 0, 3); slope <- 0.5 * start / 3 + rnorm(14, 0, 0.6)
d$y <- round(20 + start[who] + (0.8 + slope[who] + 0.3 * (d$arm == "drug")) * d$time + rnorm(nrow(d), 0, 1.5), 6)
record("slopes", lose(d, 0.2), "y ~ time * arm", "time | person")
record("slopes_apart", lose(d, 0.2), "y ~ time + arm", c("1 | person", "0 + time | person"), "arm")

# A slope that does not vary: the covariance is on its boundary.
d$y <- round(20 + start[who] + 0.8 * d$time + rnorm(nrow(d), 0, 1.5), 6)
record("slopes_singular", lose(d, 0.2), "y ~ time + arm", "1 + time | person")

# Two categories and their interaction in an unbalanced split plot.
d <- expand.grid(nitrogen = c("n0", "n1", "n2"), variety = c("golden", "marvel", "victory"), block = paste0("b", 1:5),
                 stringsAsFactors = FALSE)
d$y <- round(100 + per(d$block, 10) + per(paste(d$block, d$variety), 6) + 8 * (d$nitrogen == "n2") +
             5 * (d$nitrogen == "n1") * (d$variety == "marvel") + rnorm(nrow(d), 0, 8), 4)
record("interaction", lose(d, 0.15), "y ~ variety * nitrogen", c("1 | block", "1 | block:variety"),
       c("variety", "variety:nitrogen"))

# So few groups that the F of three categories has 2 and 1 denominator degrees of freedom.
d <- expand.grid(rep = 1:4, group = paste0("g", 1:5), stringsAsFactors = FALSE)
d$kind <- c("a", "a", "b", "b", "c")[as.integer(factor(d$group))]
d$y <- round(per(d$group, 2) + rnorm(nrow(d)), 6)
record("two_df", d[c("group", "kind", "y")], "y ~ kind", "1 | group")
d <- d[d$group != "g4", ]
record("one_df", d[c("group", "kind", "y")], "y ~ kind", "1 | group")

# Frames that were found, not simulated here: where an optimiser sits down on a saddle, and one of two optima.
found <- function(name) as.data.frame(read_json(paste0("mixed_", name, ".json"), simplifyVector = TRUE)$frame)
record("saddle", found("saddle"), "y ~ mode", terms)
record("two_optima", found("two_optima"), "y ~ category + mode", c(terms, "1 | seed"))

# Prompts 500 times further apart than their rows.
d <- expand.grid(mode = c("isolated", "visible"), seed = c("s42", "s123", "s456"), prompt = paste0("p", 0:9),
                 stringsAsFactors = FALSE)
d$y <- round(per(d$prompt, 1) + rnorm(nrow(d), 0, 0.002), 9)
record("ratio", lose(d, 0.1), "y ~ mode", "1 | prompt", "mode")
