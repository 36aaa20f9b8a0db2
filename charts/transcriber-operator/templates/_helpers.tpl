{{/*
What every template is made of. Where an argument is called `context`, it is the top context, `$`; `component` is the part of the
chart that an object belongs to: operator, crds, rbac, network, monitoring, cleanup, trial, pre-pull, serving.
*/}}

{{/* Name of the chart: label app.kubernetes.io/name. */}}
{{- define "transcriber-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of the operator's own objects. Labels and Services take 63 characters. */}}
{{- define "transcriber-operator.fullname" -}}
{{- $name := include "transcriber-operator.name" . }}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $default | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of an object beside them, FULLNAME-SUFFIX, cut before the suffix. Takes context, suffix. */}}
{{- define "transcriber-operator.childName" -}}
{{- $room := sub 62 (len .suffix) | int }}
{{- printf "%s-%s" (include "transcriber-operator.fullname" .context | trunc $room | trimSuffix "-") .suffix }}
{{- end }}

{{- define "transcriber-operator.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "transcriber-operator.serviceAccountName" -}}
{{- $account := .Values.serviceAccount }}
{{- /* Not the namespace's default account: every pod that names none would have the operator's rights. */}}
{{- if not (or $account.name $account.create) }}
{{- fail "serviceAccount.name: name the ServiceAccount to use, or set serviceAccount.create" }}
{{- end }}
{{- $account.name | default (include "transcriber-operator.fullname" .) }}
{{- end }}

{{- define "transcriber-operator.leaseName" -}}
{{- .Values.config.leaseName | default (include "transcriber-operator.fullname" .) }}
{{- end }}

{{/* Labels that choose the pods of a component. They never change: a Deployment's selector cannot. Takes context, component. */}}
{{- define "transcriber-operator.selectorLabels" -}}
{{- $labels := dict "app.kubernetes.io/instance" .context.Release.Name }}
{{- $_ := set $labels "app.kubernetes.io/name" (include "transcriber-operator.name" .context) }}
{{- with .component }}
{{- $_ := set $labels "app.kubernetes.io/component" . }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/* Labels of an object; those of the chart win over `labels` and commonLabels. Takes context, component, [labels]. */}}
{{- define "transcriber-operator.labels" -}}
{{- $chart := .context.Chart }}
{{- $own := include "transcriber-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/version" $chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/part-of" "transcriber-operator" }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .context.Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $chart.Name $chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (merge $own (.labels | default dict) .context.Values.commonLabels) }}
{{- end }}

{{/*
What stands below `metadata:` of an object. Takes context, component, and optionally name or suffix (default: fullname), namespace
(default: that of the release), clusterScoped, labels, annotations.
*/}}
{{- define "transcriber-operator.metadata" -}}
{{- $name := include "transcriber-operator.fullname" .context }}
{{- if .suffix }}
{{- $name = include "transcriber-operator.childName" . }}
{{- end }}
{{- $metadata := dict "name" (.name | default $name) }}
{{- if not .clusterScoped }}
{{- $_ := set $metadata "namespace" (.namespace | default (include "transcriber-operator.namespace" .context)) }}
{{- end }}
{{- $_ := set $metadata "labels" (include "transcriber-operator.labels" . | fromYaml) }}
{{- with merge (dict) (.annotations | default dict) .context.Values.commonAnnotations }}
{{- $_ := set $metadata "annotations" . }}
{{- end }}
{{- toYaml $metadata }}
{{- end }}

{{/* What stands below `metadata:` of a pod template. Takes context, component, [labels], [annotations]. */}}
{{- define "transcriber-operator.podMetadata" -}}
{{- $metadata := dict "labels" (include "transcriber-operator.labels" . | fromYaml) }}
{{- with .annotations }}
{{- $_ := set $metadata "annotations" . }}
{{- end }}
{{- toYaml $metadata }}
{{- end }}

{{/* An image; a digest wins over a tag. Takes context, image: {registry, repository, tag, digest}. */}}
{{- define "transcriber-operator.image" -}}
{{- $registry := .context.Values.global.imageRegistry | default .image.registry | trimSuffix "/" }}
{{- $tag := .image.tag | default .context.Chart.AppVersion }}
{{- $version := .image.digest | empty | ternary (printf ":%s" $tag) (printf "@%s" .image.digest) }}
{{- printf "%s/%s%s" $registry .image.repository $version | trimPrefix "/" }}
{{- end }}

{{- define "transcriber-operator.servingImage" -}}
{{- include "transcriber-operator.image" (dict "context" . "image" .Values.serving.image) }}
{{- end }}

{{- define "transcriber-operator.securityContext" -}}
{{- toYaml .Values.securityContext }}
{{- end }}

{{/*
Fields that all pods of the chart share, below `spec:` of a pod. Takes context, and optionally nodeSelector, tolerations and
priorityClassName in place of the operator's.
*/}}
{{- define "transcriber-operator.podDefaults" -}}
{{- $values := .context.Values }}
{{- $pod := dict "enableServiceLinks" false "securityContext" $values.podSecurityContext }}
{{- with concat $values.global.imagePullSecrets $values.imagePullSecrets | uniq }}
{{- $_ := set $pod "imagePullSecrets" . }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "priorityClassName" "runtimeClassName" "dnsPolicy" "dnsConfig" }}
{{- with hasKey $ $field | ternary (get $ $field) (get $values $field) }}
{{- $_ := set $pod $field . }}
{{- end }}
{{- end }}
{{- if kindIs "bool" $values.hostUsers }}
{{- $_ := set $pod "hostUsers" $values.hostUsers }}
{{- end }}
{{- toYaml $pod }}
{{- end }}

{{/* The operator's settings as a list of environment variables; what is empty has the operator's own default. */}}
{{- define "transcriber-operator.settings" -}}
{{- $config := .Values.config }}
{{- $host := printf "%s.%s.svc" (include "transcriber-operator.fullname" .) (include "transcriber-operator.namespace" .) }}
{{- $service := printf "http://%s:%v" $host .Values.service.port }}
{{- $settings := dict
  "SERVING_IMAGE" (include "transcriber-operator.servingImage" .)
  "NAMESPACES" (join "," .Values.watchNamespaces)
  "HTTPS_HOSTS" (join "," $config.httpsHosts)
  "METRICS_NAMESPACES" (join "," $config.metricsNamespaces)
  "LEASE_NAME" (include "transcriber-operator.leaseName" .)
  "METRICS_URL" ($config.metricsUrl | default (.Values.service.enabled | ternary $service ""))
  "RESYNC_SECONDS" $config.resyncSeconds
  "API_CALLS_PER_SECOND" $config.apiCallsPerSecond
  "LOG_FORMAT" $config.logFormat
  "LOG_LEVEL" $config.logLevel
}}
{{- $env := list }}
{{- range $name, $value := $settings }}
{{- if $value }}
{{- $env = append $env (dict "name" (printf "TRANSCRIBER_%s" $name) "value" (toString $value)) }}
{{- end }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* A probe of the operator's /healthz. Takes periodSeconds, failureThreshold. */}}
{{- define "transcriber-operator.probe" -}}
httpGet:
  path: /healthz
  port: health
periodSeconds: {{ .periodSeconds }}
timeoutSeconds: 5
failureThreshold: {{ .failureThreshold }}
{{- end }}
