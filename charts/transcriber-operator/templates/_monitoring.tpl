{{/* What the objects of the Prometheus operator are made of. */}}

{{/*
Says "true" where an object is to be rendered whose kind the cluster may not have. Takes context, kind (such as PodMonitor), values
(with enabled and renderMode), and key, where these stand in values.yaml.
*/}}
{{- define "transcriber-operator.renders" -}}
{{- if .values.enabled }}
{{- $isThere := .context.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) }}
{{- if and (eq .values.renderMode "failIfMissing") (not $isThere) }}
{{- $missing := printf "the cluster has no %s of monitoring.coreos.com/v1" .kind }}
{{- fail (printf "%s: %s; install the Prometheus operator, or set %s.renderMode to skipIfMissing" .key $missing .key) }}
{{- end }}
{{- if or $isThere (eq .values.renderMode "alwaysRender") }}true{{ end }}
{{- end }}
{{- end }}

{{/* Where to scrape, and how, as a list of one. Takes values, port, [relabelings], which come before those of the values. */}}
{{- define "transcriber-operator.scrape" -}}
{{- $scrape := pick .values "interval" "scrapeTimeout" "honorLabels" }}
{{- $_ := set $scrape "port" .port }}
{{- with concat (.relabelings | default list) .values.relabelings }}
{{- $_ := set $scrape "relabelings" . }}
{{- end }}
{{- with .values.metricRelabelings }}
{{- $_ := set $scrape "metricRelabelings" . }}
{{- end }}
{{- toYaml (list $scrape) }}
{{- end }}

{{/* Alerts of all rule files, by name, as JSON. */}}
{{- define "transcriber-operator.alertNames" -}}
{{- $names := list }}
{{- range $path, $_ := .Files.Glob "files/rules/*.yaml" }}
{{- range ($.Files.Get $path | fromYaml).groups }}
{{- range .rules }}
{{- with .alert }}
{{- $names = append $names . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/* Fails for alerts in values that no rule file has: a slip there would be without effect. Takes context, key, names. */}}
{{- define "transcriber-operator.requireAlerts" -}}
{{- $known := include "transcriber-operator.alertNames" .context | fromJsonArray }}
{{- range .names }}
{{- if not (has . $known) }}
{{- fail (printf "prometheusRule.%s: there is no alert %s; there are %s" $.key . (join ", " $known)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A rule as the values want it, as JSON; empty for an alert that is disabled. Takes context, rule. */}}
{{- define "transcriber-operator.rule" -}}
{{- $values := .context.Values.prometheusRule }}
{{- $rule := .rule }}
{{- with $rule.alert }}
{{- $override := get $values.overrides . | default dict }}
{{- with $override.for }}
{{- $_ := set $rule "for" . }}
{{- end }}
{{- with $override.severity }}
{{- $_ := set $rule.labels "severity" . }}
{{- end }}
{{- $_ := set $rule "labels" (merge $rule.labels $values.alertLabels) }}
{{- with $values.runbookBaseUrl }}
{{- $_ := set $rule.annotations "runbook_url" (printf "%s/%s" (trimSuffix "/" .) $rule.annotations.runbook_url) }}
{{- end }}
{{- end }}
{{- if not (get $values.disabled ($rule.alert | default "")) }}
{{- toJson $rule }}
{{- end }}
{{- end }}
